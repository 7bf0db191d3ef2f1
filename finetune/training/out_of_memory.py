"""A step that runs out of memory is repeated with half as many rows at a time; its gradient stays the same.

    micro = MicroBatches()
    loss = micro.run(lambda: step(batch))          # raises torch's error if one row at a time does not fit either

Losses are sums divided by the supervised tokens of the whole step, so the gradients of the parts add up to that of the batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from finetune.hardware.peak_memory import release
from finetune.training.sub_batches import tensors_of

Result = TypeVar("Result")

MEMORY_ERRORS = (torch.OutOfMemoryError, MemoryError, RuntimeError)


class MicroBatches:
    """How many rows go through the model at a time: all (None), or `rows` since the last time that memory ran out.

    `last_resort` is called when one row at a time does not fit either: it makes the step smaller, or returns False.
    """

    def __init__(self) -> None:
        self.rows: int | None = None
        self.on_halved: Callable[[int, int], None] = lambda before, after: None
        self.last_resort: Callable[[], bool] = lambda: False

    def run(self, attempt: Callable[[], Result], again: Callable[[], Result], batch_rows: int) -> Result:
        """`attempt()`; if memory runs out, `again()` with half the rows, then half of those, until it fits or nothing is left to try."""
        before = self._at_a_time(batch_rows)
        while True:
            try:
                result = attempt()
            except MEMORY_ERRORS as error:
                if not ran_out(error) or (self._at_a_time(batch_rows) == 1 and not self.last_resort()):
                    raise
            else:
                if self._at_a_time(batch_rows) < before:
                    self.on_halved(before, self._at_a_time(batch_rows))
                return result
            # Not inside the handler, where the traceback still holds the activations of what failed.
            self.rows = max(1, self._at_a_time(batch_rows) // 2)
            free_memory()
            attempt = again

    def _at_a_time(self, batch_rows: int) -> int:
        return min(self.rows or batch_rows, batch_rows)


def ran_out(error: BaseException) -> bool:
    """Whether this is torch's error for memory that ran out, on a GPU or (in other words) on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory", "DefaultCPUAllocator")
    )


def free_memory() -> None:
    """Give back memory that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    release()


def parts_of(batch: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """The batch `rows` rows at a time, in their order, as wide as it was."""
    count = len(batch["input_ids"])
    return [{name: tensor[start : start + rows] for name, tensor in tensors_of(batch).items()} for start in range(0, count, rows)]
