"""The processes that train together, each with a share of the rows of every step.

    processes = Processes.of(accelerator)
    processes.size, processes.rank          # 1, 0 where a process trains alone
    processes.sum([3.0])                    # over all of them

Every process works through its share by itself, and only then are gradients added: one that runs out of memory can make its share again in
smaller parts while the others wait. DistributedDataParallel sends gradients while the backward pass still runs, which saves some of the
waiting, and hangs when a process has to begin again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

GONE = "Another process of this training is gone."
BUCKET = 2**24  # numbers that are sent at once: few enough to need no second copy of all gradients, enough to use the whole line


def world_size() -> int:
    """Processes of the process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_gone(error: BaseException) -> bool:
    """Whether this is torch's error for a process that does not answer any more; gloo has none of its own kind."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def shares_rows(accelerator: Any) -> bool:
    """Whether each of its processes has the whole model, and a share of the rows."""
    return bool(accelerator.distributed_type.value.startswith("MULTI_"))


class Processes:
    """`size` of them, of which this is number `rank`; what they tell each other is on `device`. Every method is called by all of them."""

    def __init__(self, size: int = 1, rank: int = 0, device: torch.device | str = "cpu") -> None:
        self.size, self.rank, self.device = size, rank, torch.device(device)

    @classmethod
    def of(cls, accelerator: Any) -> Processes:
        """Those of an Accelerator; one by itself where a library cuts the model in shards, and so does the rest."""
        return cls(accelerator.num_processes, accelerator.process_index, accelerator.device) if shares_rows(accelerator) else cls()

    @property
    def first(self) -> bool:
        """Whether this is the one that reports, and writes checkpoints."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number summed over the processes."""
        if self.size == 1:
            return list(numbers)
        # Counts of tokens are exact up to 2^53; Apple's GPUs, of which there is one, have no float64.
        told = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(told)
        return [float(number) for number in told.tolist()]

    def any(self, here: bool) -> bool:
        """Whether it is so in one of them."""
        return bool(self.sum([here])[0])

    def gather(self, thing: Any) -> list[Any]:
        """What each of them has, by rank."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def same_start(self, parameters: Iterable[Tensor]) -> None:
        """Give all of them the values of the first."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.detach(), src=0)

    def add_gradients(self, parameters: Sequence[Tensor], somewhere: Sequence[float]) -> None:
        """The gradient of each parameter summed over the processes, so many of which have one.

        One that none has stays None, and is left out by the optimizer, as in a process by itself.
        """
        learning = [parameter for parameter, number in zip(parameters, somewhere, strict=True) if number]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in learning if parameter.grad is not None]):
            together = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(together)
            for gradient, summed in zip(bucket, together.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, together as large as BUCKET, or one that is larger."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (bucket[0].dtype != gradient.dtype or sum(map(torch.numel, bucket)) + gradient.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


class Share(Sampler[list[int]]):
    """The batches of one process, from an order of rows that is the same in all of them.

    A step takes the next `batch` x `accumulation` x size rows, whoever has them, so its rows are those of one process alone. Neighbours go
    to different processes: rows of similar length stand together, so all have about as much to do. The last step of an epoch may have fewer
    rows than processes; all make the same number of batches, and one without rows gets empty ones.
    """

    def __init__(self, order: Iterable[int], rows: int, batch: int, accumulation: int, processes: Processes) -> None:
        self.order, self.rows, self.batch, self.accumulation, self.processes = order, rows, batch, accumulation, processes
        self.step = batch * accumulation * processes.size

    def __len__(self) -> int:
        whole, left = divmod(self.rows, self.step)
        return whole * self.accumulation + self._batches(left)

    def __iter__(self) -> Iterator[list[int]]:
        step: list[int] = []
        for row in islice(self.order, self.rows):
            step.append(row)
            if len(step) == self.step:
                yield from self._of(step)
                step = []
        yield from self._of(step)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def _batches(self, rows: int) -> int:
        """Of each process, in a step of so many rows."""
        return math.ceil(math.ceil(rows / self.processes.size) / self.batch)

    def _of(self, step: list[int]) -> Iterator[list[int]]:
        ours = step[self.processes.rank :: self.processes.size]
        for number in range(self._batches(len(step))):
            yield ours[number * self.batch : (number + 1) * self.batch]
