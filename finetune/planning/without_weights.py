"""A model of which only the shape is there: built from its configuration on torch's meta device, it takes no memory and no time."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from finetune.distillation.students import planned_student
from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.model_folder import AGAIN
from finetune.models.kind import auto_class, configuration, try_text_alone
from finetune.models.location import LocatedModel
from finetune.recipe.settings import FromTeacher


def without_weights(located: LocatedModel, wanted: FromTeacher | None = None) -> Any:
    """The model, or the student that keeps `wanted` of it.

    Raises RecipeError for a student of nothing or of all, ModelError for what is not a language model and for a student that its own
    configuration would not describe.
    """
    import torch

    home, config = located.home, configuration(located)
    with reading(home.name, ModelError, hint=AGAIN, what="cannot be loaded"):
        kind = auto_class(config, home)
        build = partial(kind.from_config, trust_remote_code=home.remote_code)
        if wanted is not None:
            config = planned_student(config, wanted.amounts(), build)
        with torch.device("meta"):
            model = build(config)
            if model.config.get_text_config(decoder=True) is not model.config:
                with suppress(RuntimeError):  # what needs numbers, which there are none of here
                    try_text_alone(model)
    return model
