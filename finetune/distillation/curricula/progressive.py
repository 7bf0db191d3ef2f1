"""In rounds: each cuts some layers out of the student of the round before and trains it again; the first teacher keeps teaching.

With `round_teacher: previous` the student of the round before teaches (teacher assistants, Mirzadeh et al. 2019, arXiv 1902.03393).

    gentle_rounds(30, 15)       # [21, 15]: no round leaves out more than 30 % of the layers

Minitron and ModelOpt prune so. A student that loses half of its layers at once loses most of what it could do.
"""

from __future__ import annotations

import math

from finetune.recipe import Recipe, StudentSpec

LISTED = {"rounds": None, "until": None, "round_teacher": "first"}  # of the recipe of one round
LEAST = 2  # layers of a student
GENTLE = 0.7  # of the layers of the round before: what a round should keep at least


class Progressive:
    title = "In rounds"
    summary = "a small student, cut and trained several times"

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        cache = "none" if recipe.distillation.compares_other_layers else recipe.distillation.cache
        return [
            recipe.with_changes({"distillation": {**LISTED, "cache": cache}, "model": {"from_teacher": {"layers": layers}}})
            for layers in recipe.distillation.rounds or []
        ]


def with_rounds(recipe: Recipe, depth: int) -> Recipe:
    """The recipe with its rounds listed, where `until` says how many layers of the teacher's `depth` each of them leaves out."""
    spec, model = recipe.distillation, recipe.model
    if spec.until is None or spec.rounds or not isinstance(model, StudentSpec):
        return recipe
    wanted = model.from_teacher.layers or 0
    last = max(LEAST, round(wanted * depth) if wanted < 1 else int(wanted))
    rounds = [*range(depth - spec.until.step, last, -spec.until.step), last]
    return recipe.with_changes({"distillation": {"rounds": rounds}, "model": {"from_teacher": {"layers": last}}})


def gentle_rounds(depth: int, layers: int) -> list[int]:
    """The layers to keep in each round on the way from `depth` layers to so many."""
    rounds = []
    while depth > layers:
        depth = max(layers, min(depth - 1, math.ceil(GENTLE * depth)))
        rounds.append(depth)
    return rounds
