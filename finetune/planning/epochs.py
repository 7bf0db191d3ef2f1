"""How many passes over the rows `epochs: auto` means: enough for a good model, fewer where they would take too long.

    settled(context).recipe.training.epochs       # 3.0

Decided once the rows are known, and written into the run's recipe as a number. What so many passes are worth was measured: docs/log.md.
"""

from __future__ import annotations

from finetune.events import Notice
from finetune.formatting import epochs
from finetune.planning.evaluation import with_enough_to_measure
from finetune.planning.rounds import estimate_rounds
from finetune.planning.shape import shapes_of
from finetune.recipe.settings import AUTO_EPOCHS
from finetune.run_context import RunContext

SEEN = 600  # rows that training should see in all, if the data has few
MOST = 20.0  # for 30 rows and fewer
LONGEST = 900.0  # seconds that a run may take by arithmetic before passes are left out


def settled(context: RunContext) -> RunContext:
    """The context with a number for `epochs: auto`; says so where time allows fewer than the data deserves. Prepares the data.

    Its rounds are listed too. So with `learning_rate: auto`, but for that of a student whose weights all learn, which is measured once the
    student is there.
    """
    context, method = context.with_rounds(), context.method
    if context.recipe.training.epochs != "auto":
        context = with_enough_to_measure(context)
    if context.recipe.training.learning_rate == "auto" and (not context.distils or method.footprint(context.recipe.method).adapter):
        context = context.beside(recipe=context.recipe.with_changes({"training": {"learning_rate": method.learning_rate}}))
        context.reporter.report(Notice(f"Learning rate {method.learning_rate:g}: what {method.title} usually takes."))
    if context.recipe.training.epochs != "auto":
        return context
    wanted = float(min(MOST, max(AUTO_EPOCHS, round(SEEN / context.data.report.train_sequences))))
    shapes = shapes_of(context)
    passes, best = wanted, _with(context, wanted)
    least = 1 if context.recipe.distillation.practice is None else 2  # which begins after the first
    while passes > least and estimate_rounds(best, shapes, {}).seconds > LONGEST:
        passes -= 1
        best = _with(context, passes)
    if passes < wanted:
        context.reporter.report(
            Notice(
                f"{epochs(passes)} instead of {wanted:g}, because more would take long on this machine. "
                f"Better, but slower: --set training.epochs={wanted:g}"
            )
        )
    return with_enough_to_measure(best)


def _with(context: RunContext, passes: float) -> RunContext:
    return context.beside(recipe=context.recipe.with_changes({"training": {"epochs": passes}}))
