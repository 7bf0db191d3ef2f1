"""What a distilled student shall be good at: the keys that each task fills in where a recipe leaves them out.

    filled({"distillation": {"task": "classify", "alpha": 0.3}})      # alpha stays 0.3, temperature is 2, answers only, accuracy

They are starting points. In the recipe of a run they stand as themselves, so that each can be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """`distillation` are keys of that part of a recipe, `metrics` those of its benchmark."""

    title: str
    summary: str
    distillation: Mapping[str, Any]
    metrics: tuple[str, ...] = ("rouge", "perplexity")

    def layer(self) -> dict[str, Any]:
        """All that the task decides, as a recipe layer."""
        return {"distillation": dict(self.distillation), "benchmark": {"metrics": list(self.metrics)}}


TASKS = {
    "compress": Task(
        "The same as the teacher",
        "a smaller model that predicts what its teacher does",
        {"objective": "forward_kl", "alpha": 0.2, "temperature": 1.0, "supervise": "all"},
    ),
    "classify": Task(
        "Choosing a label",
        "short answers that are right or wrong; they are counted",
        {"objective": "forward_kl", "alpha": 0.5, "temperature": 2.0, "supervise": "answers"},
        ("accuracy", "perplexity"),
    ),
}


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the keys of its `distillation.task`, where there is one that is known and they are left out."""
    distillation, benchmark = given.get("distillation"), given.get("benchmark", {})
    task = TASKS.get(str(distillation.get("task"))) if isinstance(distillation, Mapping) else None
    if task is None or not isinstance(distillation, Mapping):
        return dict(given)
    layer = {**given, "distillation": {**task.distillation, **distillation}}
    return {**layer, "benchmark": {"metrics": list(task.metrics), **benchmark}} if isinstance(benchmark, Mapping) else layer
