"""The seconds of a run stage by stage, in the order in which people wait for them.

stages = of_measured(measured)                       # {"running the teacher": 40.0, "training": 200.0, "measuring": 60.0, ...}
stages = added(stages, {"training": 180.0})          # another round
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.planning.measure import whole_run

WRITING, GRADING, MAKING = "writing rows", "grading rows", "making the student"
TEACHER, PRACTICE = "running the teacher", "own answers"
TRAINING, HELD_OUT, DECIDING, MEASURING, AROUND = "training", "the held-out loss", "deciding on rounds", "measuring", "loading and saving"
ORDER = (WRITING, GRADING, MAKING, TEACHER, TRAINING, PRACTICE, HELD_OUT, DECIDING, MEASURING, AROUND)
FEWEST_PARAMETERS = 5_000_000  # a smaller model takes less than a process varies by, and its speed is that of Python
USUAL_SECONDS = 20.0  # loading, and the rounds of a small model
MEASURED = {"ready": AROUND, "making": MAKING, "asking": TEACHER, "training": TRAINING, "closing": AROUND}
MEASURED |= {"teacher": MEASURING, "before": MEASURING, "after": MEASURING}


def of_measured(measured: Mapping[str, Any]) -> dict[str, float]:
    """Those of the whole run that follow from a few real steps (measure.py: Measurement)."""
    return added(*({MEASURED[name]: seconds} for name, seconds in whole_run(measured["stages"]).items()))


def costs_seconds(parameters: int) -> float:
    """About what measuring speed and memory takes, of a model of so many parameters and another of its size."""
    return USUAL_SECONDS if parameters >= FEWEST_PARAMETERS else 0.0


def added(*parts: Mapping[str, float]) -> dict[str, float]:
    """The sum of several, without what takes no time."""
    sums = {name: sum(part.get(name, 0.0) for part in parts) for name in ORDER}
    return {name: seconds for name, seconds in sums.items() if seconds}
