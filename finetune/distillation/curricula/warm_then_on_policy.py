"""On its own answers: an epoch on the rows of the data, then a share of the rows are answers of the student that the teacher reads.

    slow_down(scheduler, 102)       # after so many steps, those of the first epoch, the learning rate is a fifth

A student that has learned nothing yet writes nothing worth reading: GKD (2306.13649) and DistiLLM (2402.03898) begin with the data too.
Its answers change with every step, so the steps over them are small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.errors import RecipeError
from finetune.recipe import Recipe

SLOWER = 0.2  # of the learning rate, where the student practises


class WarmThenOnPolicy:
    title = "On its own answers"
    summary = "an epoch on the data, then the teacher reads what the student writes"

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        return [recipe]


def slow_down(scheduler: Any, first: int) -> None:
    """Multiply the learning rate by SLOWER after `first` steps; raises RecipeError for a scheduler that cannot do that."""
    if not hasattr(scheduler, "lr_lambdas"):
        raise RecipeError(
            f"on_policy lowers the learning rate after {first} steps, which {type(scheduler).__name__} does not allow.",
            hint="Choose another lr_scheduler_type, such as cosine.",
        )
    scheduler.lr_lambdas = [_slowed(usual, first) for usual in scheduler.lr_lambdas]


def _slowed(usual: Callable[[int], float], first: int) -> Callable[[int], float]:
    return lambda step: usual(step) * (SLOWER if step >= first else 1.0)
