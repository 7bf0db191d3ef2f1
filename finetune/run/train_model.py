"""The training of a run: its model with what the recipe, the method and the machine say about it, given to the training loop.

outcome = engine_of(context).train(Order(context, model, folder, setup))      # on as many devices as the run uses
outcome = Order(context, model, folder, setup).train()                        # in this process
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

    def train(
        self,
        stop: StopOnSignal | None = None,
        callbacks: Iterable[TrainerCallback] = (),
        wrapped: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda make: make,
    ) -> Outcome:
        """In this process; `callbacks` come before the method's, `wrapped` changes what makes the trainer. Raises what `train` does."""
        context, recipe, method, data = self.context, self.context.recipe, self.context.method, self.context.data
        return train(
            self.model,
            context.tokenizer,
            data.train,
            recipe,
            context.machine,
            context.reporter,
            folder=self.folder.checkpoints,
            callbacks=[*callbacks, *method.callbacks(self.model, recipe.method)],
            make_trainer=wrapped(self.setup.trainer if self.setup else SupervisedTrainer),
            penalty=method.penalty(self.model, recipe.method),
            start=self.start,
            made_with=self.made_with,
            stop=stop,
            held_out=data.deciding if recipe.training.evaluates else None,
            settled_at=partial(method.settled_at, recipe.method),
            cut=self.cut,
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
