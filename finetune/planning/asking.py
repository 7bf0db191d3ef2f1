"""What asking the teachers of a run will take: disk for their answers, and operations.

bytes_kept, operations = asking(context, shape_of(context), narrow=2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.teachers.routes import teacher_rows
from finetune.models.facts import ModelFacts
from finetune.planning.features import kept_bytes
from finetune.planning.known_caches import known
from finetune.run_context import RunContext

if TYPE_CHECKING:
    from finetune.planning.shape import Shape


def asking(context: RunContext, shape: Shape, narrow: int) -> tuple[int, float]:
    """Disk that the teachers' answers take, by the signal that the run will choose, and the operations of asking for them.

    What an earlier run has asked for is not counted.
    """
    import torch

    from finetune.distillation.caches.choice import problem_of, signals_for
    from finetune.distillation.signals import bytes_of
    from finetune.distillation.teachers.correction import MARGIN_BYTES
    from finetune.training.head import Head

    recipe, report = context.recipe, context.data.report
    asked = [shape.model] if context.teaches_itself else shape.teachers
    if not asked:
        return 0, 0.0

    def head(facts: ModelFacts, bytes_each: int, trains: bool = False) -> Head:
        dtype = torch.float32 if bytes_each == 4 else torch.bfloat16
        return Head(torch.empty(facts.vocabulary, facts.hidden, dtype=dtype, device="meta").requires_grad_(trains))

    frozen = context.method.keeps_head(recipe.method, head_settled=context.recipe.head_settled)
    full = not context.method.footprint(recipe.method).adapter  # which keeps the student's head in float32
    student = head(shape.model, 4 if full else narrow, not frozen)
    spec = recipe.distillation
    signals = signals_for(spec.across_tokenizers == "spans" and any(context.alignments))
    valid = next(name for name, signal in signals.items() if problem_of(signal, student, spec.objective, spec.features) is None)
    kind = "none" if context.asks_every_step else valid if spec.cache == "auto" else spec.cache
    times = recipe.training.passes if kind == "none" else 1
    size_of_all, operations, numbers = 0, 0.0, teacher_rows(recipe, context.data.train)
    more = context.decides_between == "steps"  # rows that teachers are asked about
    supervised = report.supervised_tokens + more * report.deciding_supervised
    read = report.train_tokens + more * report.deciding_tokens
    for number, teacher in enumerate(asked):
        share = 1.0 if numbers is None else numbers.count(number) / len(numbers)
        if kind in signals and known(context, number, kind):
            continue
        if kind in signals:
            tokens = round(supervised * share)
            size_of_all += bytes_of(signals[kind], tokens, head(teacher, narrow), student)
            size_of_all += MARGIN_BYTES * tokens if recipe.distillation.correct else 0
            size_of_all += kept_bytes(context, number, tokens, round(read * share), shape.learning.layers)
        operations += 2 * teacher.parameters * read * share * times
    return size_of_all, operations
