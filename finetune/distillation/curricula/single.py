"""One training: the model as it is, or a student made at once."""

from __future__ import annotations

from finetune.recipe import Recipe


class Single:
    title = "At once"
    summary = "one training"

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        return [recipe]
