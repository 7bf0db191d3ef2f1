"""What making a student from its teacher takes, before it learns.

seconds = making_seconds(context, describe(context.teacher_located), rate=2e11)
"""

from __future__ import annotations

from finetune.distillation.students import CALIBRATION_TOKENS, passes_of
from finetune.models.facts import ModelFacts
from finetune.recipe import StudentSpec
from finetune.run_context import RunContext

BUILDING = 0.04  # seconds for each layer and pass: the shapes of a student are found and checked on models without weights


def making_seconds(context: RunContext, teacher: ModelFacts, rate: float) -> float:
    """Passes over the calibration rows at `rate` operations a second, and models built; 0 for a student that is not made."""
    model = context.recipe.model
    if not isinstance(model, StudentSpec):
        return 0.0
    tokens = min(CALIBRATION_TOKENS, context.data.report.train_tokens)
    return passes_of(model.from_teacher.amounts()) * (2 * teacher.parameters * tokens / rate + BUILDING * teacher.layers)
