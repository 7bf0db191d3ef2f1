"""What a cache holds of the rows of a step, read by a thread while the student's layers are at work.

    ahead = ReadAhead(cache)
    ahead.begin([([3, 1], [40, 25], ())])       # the batches of a step: rows, their supervised tokens, names of tensors
    values, negentropy = ahead.read([3, 1], [40, 25])

The tensors are pinned: a GPU copies from such memory by itself, and nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from finetune.distillation.cache import TeacherCache

Asked = tuple[Sequence[int], Sequence[int], Sequence[str]]  # what TeacherCache.read takes


class ReadAhead:
    """Reads a cache, of what was begun ahead; anything else when it is asked for."""

    def __init__(self, cache: TeacherCache) -> None:
        self.cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher cache")
        self._begun: dict[tuple[tuple[int, ...], tuple[str, ...]], Future[list[Tensor]]] = {}

    def begin(self, asked: Iterable[Asked]) -> None:
        """Begin with a step; what is left of the last one, which was cut into parts, is forgotten."""
        self._begun = {(tuple(rows), tuple(names)): self._thread.submit(self._pinned, rows, counts, names) for rows, counts, names in asked}

    def read(self, rows: Sequence[int], counts: Sequence[int], names: Sequence[str] = ()) -> list[Tensor]:
        """As TeacherCache.read, with its errors."""
        begun = self._begun.pop((tuple(rows), tuple(names)), None)
        return self.cache.read(rows, counts, names) if begun is None else begun.result()

    def _pinned(self, rows: Sequence[int], counts: Sequence[int], names: Sequence[str]) -> list[Tensor]:
        found = self.cache.read(rows, counts, names)
        return [each.pin_memory() for each in found] if torch.cuda.is_available() else found
