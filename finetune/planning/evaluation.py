"""What measuring the held-out loss while a model trains takes, and whether a run is long enough for it.

context = with_enough_to_measure(context)       # as it was, or without it, and a sentence why
tokens, said = measuring(context)
"""

from __future__ import annotations

from finetune.events import Notice
from finetune.run_context import RunContext
from finetune.training.kept_step import FEWEST, FEWEST_ROWS, USUALLY, measured_every, measurements
from finetune.training.step_count import steps_of

OFF = {"evaluate_every": "auto", "keep": "last", "patience": None}
SHORTEST = 2 * USUALLY  # steps, where the recipe does not say how often


def with_enough_to_measure(context: RunContext) -> RunContext:
    """The context, or one that keeps the last step and has all rows to train on, where it is too short to choose among steps; says so.

    Prepares the data if there is something to measure.
    """
    spec = context.recipe.training
    if context.decides_between != "steps":
        return context
    data = context.data
    rows, steps = 0 if data.deciding is None else len(data.deciding), steps_of(spec, len(data.train))
    if rows < FEWEST_ROWS:
        why = f"only {rows} rows could be kept from training to measure it on, and it takes {FEWEST_ROWS}"
    elif spec.evaluate_every == "auto" and steps < SHORTEST:
        why = f"{steps} steps are too few: {SHORTEST} are enough, or set training.evaluate_every"
    elif measurements(spec.evaluate_every, steps) < FEWEST:
        why = f"it would be measured once in {steps} steps: lower training.evaluate_every"
    else:
        return context
    context.reporter.report(Notice(f"The held-out loss is not measured, and the last step is kept: {why}.", "warning"))
    return context.without_data(context.recipe.with_changes({"training": OFF}))


def measuring(context: RunContext) -> tuple[int, str]:
    """The tokens that are read in all measurements, and a sentence about them; none where there are none."""
    spec, report = context.recipe.training, context.data.report
    if context.decides_between != "steps" or not report.deciding:
        return 0, ""
    steps = steps_of(spec, report.train_sequences)
    every = measured_every(spec.evaluate_every, steps)
    then = "the weights of the lowest are kept" if spec.keep == "best" else "the weights of the last step are kept"
    ends = f", and the training stops after {spec.patience} without a lower one" if spec.patience else ""
    return (
        measurements(spec.evaluate_every, steps) * report.deciding_tokens,
        f"The held-out loss is measured every {f'{every:,} steps' if every > 1 else 'step'} on {report.deciding:,} rows that are not "
        f"trained on; {then}{ends}.",
    )
