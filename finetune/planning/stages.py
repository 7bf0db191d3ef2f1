"""The seconds of a run stage by stage, in the order in which people wait for them.

stages = of_measured(measured)                       # {"running the teacher": 40.0, "training": 200.0, "measuring": 60.0, ...}
stages = added(stages, {"training": 180.0})          # another round
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.distillation.students import CALIBRATION_TOKENS, passes_of
from finetune.models.facts import ModelFacts
from finetune.planning.measure import whole_run
from finetune.recipe import StudentSpec
from finetune.run_context import RunContext

WRITING, GRADING, MAKING = "writing rows", "grading rows", "making the student"
TEACHER, PRACTICE = "running the teacher", "own answers"
TRAINING, HELD_OUT, DECIDING, MEASURING, AROUND = "training", "the held-out loss", "deciding on rounds", "measuring", "loading and saving"
ORDER = (WRITING, GRADING, MAKING, TEACHER, TRAINING, PRACTICE, HELD_OUT, DECIDING, MEASURING, AROUND)
FEWEST_PARAMETERS = 5_000_000  # a smaller model takes less than a process varies by, and its speed is that of Python
USUAL_SECONDS = 20.0  # loading, and the rounds of a small model
BUILDING = 0.04  # seconds for each layer and pass: the shapes of a student are found and checked on models without weights
MEASURED = {"ready": AROUND, "making": MAKING, "asking": TEACHER, "training": TRAINING, "closing": AROUND}
MEASURED |= {"teacher": MEASURING, "before": MEASURING, "after": MEASURING}


def of_measured(measured: Mapping[str, Any]) -> dict[str, float]:
    """Those of the whole run that follow from a few real steps (measure.py: Measurement)."""
    return added(*({MEASURED[name]: seconds} for name, seconds in whole_run(measured["stages"]).items()))


def costs_seconds(parameters: int) -> float:
    """About what measuring speed and memory takes, of a model of so many parameters and another of its size."""
    return USUAL_SECONDS if parameters >= FEWEST_PARAMETERS else 0.0


def making_seconds(context: RunContext, teacher: ModelFacts, rate: float) -> float:
    """Passes over the calibration rows at `rate` operations a second, and models built; 0 for a student that is not made."""
    model = context.recipe.model
    if not isinstance(model, StudentSpec):
        return 0.0
    tokens = min(CALIBRATION_TOKENS, context.data.report.train_tokens)
    return passes_of(model.from_teacher.amounts()) * (2 * teacher.parameters * tokens / rate + BUILDING * teacher.layers)


def added(*parts: Mapping[str, float]) -> dict[str, float]:
    """The sum of several, without what takes no time."""
    sums = {name: sum(part.get(name, 0.0) for part in parts) for name in ORDER}
    return {name: seconds for name, seconds in sums.items() if seconds}
