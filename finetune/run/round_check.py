"""Whether a round of a training was one too many: how much of its teacher its student keeps, on rows that are not trained on or reported.

check = RoundCheck.of(context)          # None where the recipe has no `distillation.until`
check.kept(round_context, model)        # 0.93 of the teacher's ROUGE-L
check.result(done)                      # the number of the round whose student is the result, once that is decided
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.benchmark.names import share
from finetune.benchmark.scoring import Scores
from finetune.errors import RecipeError
from finetune.events import Notice
from finetune.run.baselines import measure, teacher_answers
from finetune.run_context import RunContext
from finetune.system.storage import digest

METRIC = "rougeL"
LISTED = "List the rounds, and leave out distillation.until."


@dataclass(frozen=True)
class RoundCheck:
    """`rows` is the run with the validation rows in place of those held out, `teacher` what the teacher scores on them."""

    rows: RunContext
    teacher: Scores
    least: float

    @classmethod
    def of(cls, context: RunContext) -> RoundCheck | None:
        """Measures the teacher, unless an earlier run has; raises RecipeError where it answers nothing right."""
        until, data = context.recipe.distillation.until, context.data
        if until is None or data.deciding is None:
            return None
        spec = {"metrics": ["rouge"], "rows": len(data.deciding)}
        those = replace(data, held_out=data.deciding, fingerprint=digest([data.fingerprint, "deciding"]))
        rows = context.beside(recipe=context.recipe.with_changes({"benchmark": spec}), data=those)
        teacher = teacher_answers(rows, "Measuring the teacher on the validation rows")
        if not teacher.values.get(METRIC):
            raise RecipeError("None of the teacher's answers is right, so there is nothing for a student to keep.", hint=LISTED)
        return cls(rows, teacher, until.retention)

    def kept(self, context: RunContext, model: Any) -> float:
        """The share of the teacher's ROUGE-L that the student of a round keeps."""
        with context.stage("deciding", "Measuring what the student keeps of its teacher") as said:
            scores = measure(self.rows, model, "deciding")
            value = scores.values[METRIC] / self.teacher.values[METRIC]
            said(f"{share(value)} of its ROUGE-L on {scores.rows} rows; {share(self.least)} is required")
        return value

    def result(self, done: Sequence[Mapping[str, Any]], of: int) -> int | None:
        """The number of the round whose student is the result: the last that kept enough; None while more rounds follow."""
        if not done or (done[-1]["kept"] >= self.least and len(done) < of):
            return None
        return len(done) if done[-1]["kept"] >= self.least else max(1, len(done) - 1)

    def sentence(self, done: Sequence[Mapping[str, Any]], result: int) -> Notice:
        """What was decided."""
        chosen = done[result - 1]
        named = f"round {result}, with {chosen['layers']} layers"
        result_is = f"The result is the student of {named}: it keeps {share(chosen['kept'])} of its teacher."
        if chosen["kept"] < self.least:
            return Notice(f"No student keeps {share(self.least)} of its teacher. {result_is}", "warning")
        if result < len(done):
            last = done[-1]
            return Notice(f"{result_is} The next, with {last['layers']} layers, keeps only {share(last['kept'])}.")
        return Notice(f"{result_is} No fewer layers were asked for.")
