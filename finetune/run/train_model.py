"""The training of a run: its model with what the recipe, the method and the machine say about it, given to the training loop.

outcome = train_model(context, model, folder, make_trainer=setup.trainer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.training.loop import Outcome, train
from finetune.training.trainer import SupervisedTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from finetune.training.checkpoints import Checkpoint


def train_model(
    context: RunContext,
    model: Any,
    folder: RunFolder,
    *,
    make_trainer: Callable[..., SupervisedTrainer] | None = None,
    callbacks: Iterable[TrainerCallback] = (),
    start: Checkpoint | None = None,
    made_with: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train `model`, to which the method is attached, in place; `callbacks` come before those of the method. Raises what `train` does."""
    recipe, method = context.recipe, context.method
    return train(
        model,
        context.tokenizer,
        context.data.train,
        recipe,
        context.machine,
        context.reporter,
        folder=folder.checkpoints,
        callbacks=[*callbacks, *method.callbacks(model, recipe.method)],
        make_trainer=make_trainer or SupervisedTrainer,
        penalty=method.penalty(model, recipe.method),
        start=start,
        made_with=made_with,
    )
