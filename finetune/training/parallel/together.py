"""A Trainer in several processes that makes the steps of one: the same rows, the same tokens to divide by, gradients added once a step.

    torchrun --nproc-per-node 2 train.py         # where train.py makes such a trainer

In one process it is the ordinary Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from finetune.errors import RecipeError
from finetune.training.head import backbone_of
from finetune.training.parallel.processes import Processes, Share, shares_rows
from finetune.training.parallel.shards import Whole, in_forward

Made = TypeVar("Made")


class TogetherTrainer(Trainer):
    """`processes` are those that make each step together. Raises RecipeError for average_tokens_across_devices=False in several, and
    for DeepSpeed where each has a part of the weights.
    """

    model: Any
    accelerator: Any
    processes: Processes
    cut = False  # whether the model is to be cut into shards when it trains
    whole: Whole | None = None  # once it is

    def create_accelerator_and_postprocess(self) -> None:
        shared: Any = self.args.accelerator_config
        if shared.dispatch_batches is None:  # rows of a stream: each process reads its own; sent around, all had to be of one length
            shared.dispatch_batches = False
        super().create_accelerator_and_postprocess()
        self.processes = Processes.of(self.accelerator)
        if getattr(getattr(self.accelerator.state, "deepspeed_plugin", None), "zero_stage", 0) == 3:
            raise RecipeError(
                "Stage 3 of DeepSpeed is not supported: the loss needs the whole weights of the head, of which each process has a part.",
                hint="Cut the model with FSDP 2 (fsdp_version: 2 in the configuration of accelerate), or take another stage.",
            )
        if self.processes.size > 1 and not self.args.average_tokens_across_devices:
            raise RecipeError(
                "average_tokens_across_devices=False is not supported: a step is the same, however many processes make it.",
                hint="Leave it out.",
            )
        if shares_rows(self.accelerator):  # gradients are added here; a wrapper would add them too
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    @property
    def sharded(self) -> bool:
        """Whether another library has cut the model into shards: its processes have to make each forward pass together."""
        return bool(self.args.world_size > self.processes.size)

    @property
    def together(self) -> bool:
        """Whether the processes have to make each forward and backward pass together."""
        return self.sharded or self.whole is not None

    def in_forward(self, function: Callable[[], Made]) -> Made:
        """What a function of the model gives, inside of its forward pass where it is cut into shards, which are gathered there."""
        if self.whole is not None:
            return cast(Made, self.whole(function))
        return in_forward(self.model, function) if hasattr(self.model, "unshard") else function()

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: Any = super().get_train_dataloader()
        order = getattr(getattr(loader.batch_sampler, "batch_sampler", None), "sampler", None)  # as the Trainer and accelerate made it
        if self.processes.size == 1 or order is None:  # a stream has no order, and batches that are made for each process have theirs
            return cast(DataLoader[Any], loader)
        # accelerate would repeat rows until every process has as many.
        rows = loader.dataset
        args = self.args
        left_out = len(rows) % (args.train_batch_size * self.processes.size) if args.dataloader_drop_last else 0
        share = Share(order, len(rows) - left_out, args.train_batch_size, args.gradient_accumulation_steps, self.processes)
        return DataLoader(
            rows,
            batch_sampler=share,
            collate_fn=loader.collate_fn,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            worker_init_fn=loader.worker_init_fn,
        )

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.cut and self.processes.size > 1 and self.whole is None:  # before an optimizer is made of the parameters
            self.whole = Whole(self.model, self.args.device)  # each weight has one owner, so there is nothing to make equal
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.args.torch_compile and not self.together:  # what accelerate has compiled has a head, which the loss here goes past
            backbone_of(self.model).compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        if self.whole is None:
            self.processes.same_start(self._learning())
        if not self.processes.first:
            torch.manual_seed(self.args.seed + self.processes.rank)  # dropout of its own
        return prepared

    def _learning(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def end_step(self, parts: Parts, wishes: Wishes, loss: Tensor) -> Tensor:
        """Sum what the processes have: gradients, parts of the loss and, returned, the loss; and settle what they wish."""
        learning = self._learning()
        flags = [float(parameter.grad is not None) for parameter in learning]
        wanted = wishes.numbers()
        total, *sums = parts.told(self.processes, [float(loss), *wanted, *flags])
        wishes.settle(sums[: len(wanted)])
        if self.whole is None:  # else the backward pass has added them
            self.processes.add_gradients(learning, sums[len(wanted) :])
        return torch.tensor(total)


class Parts:
    """The parts of a step's loss, summed over its batches and, once it is `told`, over the processes.

    Which parts there are the processes tell each other when one of them has a new one: a share without rows has none.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.begin()

    def begin(self) -> None:
        """A step, from nothing."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}  # of the supervised tokens that have this part

    def add(self, parts: Mapping[str, Tensor], count: int) -> None:
        for name, total in parts.items():
            self.sums[name] = self.sums.get(name, 0) + total
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items() if self.counts[name]}

    def told(self, processes: Processes, more: list[float]) -> list[float]:
        """Sum over the processes, together with `more` numbers, whose sums are returned."""
        while True:
            new = any(name not in self.names for name in self.sums)
            sums = [float(self.sums.get(name, 0.0)) for name in self.names]
            counts = [self.counts.get(name, 0) for name in self.names]
            unknown, *summed = processes.sum([new, *sums, *counts, *more])
            if not unknown:
                break
            self.names = sorted({*self.names, *(name for names in processes.gather(list(self.sums)) for name in names)})
        known = len(self.names)
        self.sums = {name: torch.tensor(total) for name, total in zip(self.names, summed, strict=False)}
        self.counts = {name: int(count) for name, count in zip(self.names, summed[known:], strict=False)}
        return summed[2 * known :]


Wish = Callable[[], bool]


class Wishes:
    """What one process may want of all of them at the end of a step, such as to stop; asked once a step, so that all do the same."""

    def __init__(self) -> None:
        self.asked: dict[str, Wish] = {}
        self.agreed: dict[str, bool] = {}

    def granted(self, name: str) -> bool:
        """Whether one of them wanted it when they last asked each other; a process by itself is asked now."""
        return self.agreed[name] if self.agreed else self.asked[name]()

    def numbers(self) -> list[float]:
        return [float(wish()) for wish in self.asked.values()]

    def settle(self, sums: list[float]) -> None:
        self.agreed = {name: total > 0 for name, total in zip(self.asked, sums, strict=True)}
