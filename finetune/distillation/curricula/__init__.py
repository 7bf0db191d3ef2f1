"""Which students a run trains, one after another: one file for each way, all in the registry kind `curricula`.

    registry.load("curricula", recipe.curriculum).recipes(recipe)     # the recipe of each round, that of the last student last

Each of them is the recipe of an ordinary run. From the second on, its student is cut out of the student of the round before.
"""

from __future__ import annotations

from typing import Protocol

from finetune.recipe import Recipe


class Curriculum(Protocol):
    """A way to reach a student."""

    title: str
    summary: str

    def recipes(self, recipe: Recipe) -> list[Recipe]: ...
