"""A student made in rounds: each cuts some layers out of the student of the round before and trains it again.

    round_recipes(recipe)    # the recipe of each round, that of the last student last: each is the recipe of an ordinary run

The first teacher keeps teaching; with `round_teacher: previous` it is the student of the round before (teacher assistants, Mirzadeh et al.
2019, arXiv 1902.03393). Minitron and ModelOpt prune in rounds: a student that loses half of its layers at once loses most of its abilities.
"""

from __future__ import annotations

import math

from finetune.recipe import Recipe, StudentSpec

LISTED = {"rounds": None, "until": None, "round_teacher": "first"}  # of the recipe of one round
LEAST = 2  # layers of a student
GENTLE = 0.7  # of the layers of the round before: what a round should keep at least


def round_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe of each of its rounds."""
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
    """The layers to keep in each round on the way from `depth` layers to so many: 21, 15 from 30 to 15."""
    rounds = []
    while depth > layers:
        depth = max(layers, min(depth - 1, math.ceil(GENTLE * depth)))
        rounds.append(depth)
    return rounds
