"""In rounds: each cuts some layers out of the student of the round before and trains it again; the first teacher keeps teaching.

    gentle_rounds(30, 15)       # [21, 15]: no round leaves out more than 30 % of the layers

Minitron and ModelOpt prune so. A student that loses half of its layers at once loses most of what it could do.
"""

from __future__ import annotations

import math

from finetune.recipe import Recipe

GENTLE = 0.7  # of the layers of the round before: what a round should keep at least


class Progressive:
    title = "In rounds"
    summary = "a small student, cut and trained several times"

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        return [
            recipe.with_changes({"distillation": {"rounds": None}, "model": {"from_teacher": {"layers": layers}}})
            for layers in recipe.distillation.rounds or []
        ]


def gentle_rounds(depth: int, layers: int) -> list[int]:
    """The layers to keep in each round on the way from `depth` layers to so many."""
    rounds = []
    while depth > layers:
        depth = max(layers, min(depth - 1, math.ceil(GENTLE * depth)))
        rounds.append(depth)
    return rounds
