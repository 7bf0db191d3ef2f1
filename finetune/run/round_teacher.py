"""A student that teaches the next one: what a round learns from where `distillation.round_teacher` is `previous`.

    setup = taught_by(context, student, before, place)      # `before` is the model that was saved in `place`

Teacher assistants: Mirzadeh et al. 2019, arXiv 1902.03393.
"""

from __future__ import annotations

from typing import Any

from finetune.distillation.setup import DistillationSetup
from finetune.models.location import locate
from finetune.run.loading import distillation_setup
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder


def taught_by(context: RunContext, student: Any, before: Any, place: RunFolder) -> DistillationSetup:
    """What the student of a round learns from the one before it, whose answers are cached like those of every teacher."""
    located = locate(str(place.output_dir), context.runtime, context.reporter)
    recipe = context.recipe.with_changes({"teacher": {"source": str(place.output_dir), "load_in": None}})
    return distillation_setup(context.beside(recipe=recipe, teachers_located=[located]), student, [before], look=False)
