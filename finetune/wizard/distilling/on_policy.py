"""A student that practises on its own answers: what is chosen for it, and the few questions about it.

draft = chosen(draft)          # practice with its defaults, and an epoch for it
"""

from __future__ import annotations

from finetune.recipe import Recipe, merge
from finetune.recipe.distillation_settings import OnPolicySpec
from finetune.wizard.draft import Draft

FEWEST_EPOCHS = 2  # practice begins after the first
ADVANCED = ("distillation.on_policy.share", "distillation.on_policy.tokens", "distillation.on_policy.refresh")


def chosen(draft: Draft) -> Draft:
    """The draft with practice, for as many epochs as that takes."""
    return merge(draft, {**enough_epochs(draft), "distillation": {"on_policy": OnPolicySpec().model_dump(exclude_none=True)}})


def enough_epochs(draft: Draft) -> Draft:
    """The epochs that practice takes, as a recipe layer: at least those of the draft."""
    epochs = Recipe.from_layers(draft).training.epochs
    return {"training": {"epochs": epochs if epochs == "auto" else max(FEWEST_EPOCHS, epochs)}}


def practises(draft: Draft) -> bool:
    return Recipe.from_layers(draft).distillation.practice is not None
