"""The training of a run: its model with what the recipe, the method and the machine say about it, given to the training loop.

outcome = engine_of(context).train(Order(context, model, folder, setup))      # on as many devices as the run uses
outcome = train_model(context, model, folder, make_trainer=setup.trainer)     # in this process
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune import registry
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.training.callbacks import StopOnSignal
from finetune.training.loop import Outcome, train
from finetune.training.trainer import SupervisedTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from finetune.distillation.prepare import DistillationSetup
    from finetune.training.checkpoints import Checkpoint
    from finetune.training.head import Head


@dataclass(frozen=True)
class Order:
    """One training: of `model`, to which the method is attached, in place; when distilling, `setup` is what it learns from."""

    context: RunContext
    model: Any
    folder: RunFolder
    setup: DistillationSetup | None = None
    start: Checkpoint | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict)
    cut: bool = False  # into shards

    def train(self, stop: StopOnSignal | None = None) -> Outcome:
        """In this process. Raises what the training loop does."""
        make = self.setup.trainer if self.setup else None
        return train_model(
            self.context, self.model, self.folder, make_trainer=make, start=self.start, made_with=self.made_with, stop=stop, cut=self.cut
        )


@dataclass(frozen=True)
class Asked:
    """The cache in `cache`, of that `kind`, of teacher `number`: which shards are missing, its index says.

    `head` is the student's, `models` are those that this process has on its device.
    """

    context: RunContext
    folder: RunFolder
    number: int
    head: Head
    models: list[Any]
    kind: str
    cache: Path


class Engine(Protocol):
    """Trains on one device or several (finetune/engines/)."""

    def train(self, order: Order) -> Outcome:
        """Carry the order out; afterwards its model has the trained weights. Raises what the training loop does."""

    def ask(self, asked: Asked) -> None:
        """Have several processes write the missing shards, each with `CacheSetup.share`; this one writes what is missing afterwards."""


def engine_of(context: RunContext) -> Engine:
    engine: Engine = registry.load("engines", context.engine)
    return engine


def train_model(
    context: RunContext,
    model: Any,
    folder: RunFolder,
    *,
    make_trainer: Callable[..., SupervisedTrainer] | None = None,
    callbacks: Iterable[TrainerCallback] = (),
    start: Checkpoint | None = None,
    made_with: Mapping[str, Any] | None = None,
    stop: StopOnSignal | None = None,
    cut: bool = False,
) -> Outcome:
    """Train `model`, to which the method is attached, in place; `callbacks` come before those of the method. Raises what `train` does."""
    recipe, method, data = context.recipe, context.method, context.data
    held_out: Any = data.deciding if recipe.training.evaluates else None
    return train(
        model,
        context.tokenizer,
        data.train,
        recipe,
        context.machine,
        context.reporter,
        folder=folder.checkpoints,
        callbacks=[*callbacks, *method.callbacks(model, recipe.method)],
        make_trainer=make_trainer or SupervisedTrainer,
        penalty=method.penalty(model, recipe.method),
        start=start,
        made_with=made_with,
        stop=stop,
        held_out=held_out,
        settled_at=partial(method.settled_at, recipe.method),
        cut=cut,
    )
