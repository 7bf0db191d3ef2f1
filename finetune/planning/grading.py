"""Before the run: what a teacher on a server will be asked for, where it grades the rows.

found = grading(context)        # GradingCost(by="starter at localhost:8000", tokens=45_000, ...); None for other runs
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.recipe.teacher_settings import grading_words, host_of
from finetune.run_context import RunContext

READ_PER_SECOND = 500.0  # tokens that a server reads, of which nothing is known


@dataclass(frozen=True)
class GradingCost:
    """Rows that are still to be graded `by` whom, telling what, the tokens that are sent for it, their budget, time and room on disk."""

    by: str
    tells: str
    rows: int
    tokens: int
    budget: int | None
    seconds: float
    bytes: int

    @property
    def warnings(self) -> list[str]:
        if self.budget is None or self.tokens <= self.budget:
            return []
        said = f"Grading takes {self.tokens:,} tokens and teacher.budget_tokens allows {self.budget:,}: the run will stop partway, and "
        return [f"{said}`finetune-cli resume` may take as many again. To allow all: --set teacher.budget_tokens={self.tokens}"]


def grading(context: RunContext) -> GradingCost | None:
    """What no earlier run has asked for; of rows that are still to be written all. Prepares the data."""
    spec, report = context.recipe.grader, context.data.report
    if spec is None:
        return None
    from finetune.distillation.caches.server import Graded, Left
    from finetune.distillation.signals.top_k import token_bytes

    if context.source.missing(context):
        left = Left(report.train_sequences, report.train_tokens + report.train_sequences, report.supervised_tokens)
    else:
        left = Graded.of(context.recipe, context.data, context.tokenizer, context.runtime).left()
    room = left.supervised * token_bytes(spec.likeliest)
    by = f"{spec.model} at {host_of(str(spec.server))}"
    return GradingCost(by, grading_words(spec.likeliest), left.rows, left.tokens, spec.budget_tokens, left.tokens / READ_PER_SECOND, room)
