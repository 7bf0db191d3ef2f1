"""Prefetching: a thread reads the cached teacher outputs of a step while the student's layers run.

    ahead = ReadAhead(cache)
    ahead.begin([([3, 1], [40, 25], ())])       # the batches of a step: rows, their supervised tokens, names of tensors
    values, negentropy = ahead.read([3, 1], [40, 25])

The tensors are in pinned memory, from which a GPU copies without blocking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from finetune.distillation.caches.on_disk import TeacherCache

CacheRead = tuple[Sequence[int], Sequence[int], Sequence[str]]  # what TeacherCache.read takes


class ReadAhead:
    """Reads a cache: ahead what was begun, anything else at once."""

    def __init__(self, cache: TeacherCache) -> None:
        self.cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher cache")
        self._begun: dict[tuple[tuple[int, ...], tuple[str, ...]], Future[list[Tensor]]] = {}

    def begin(self, asked: Iterable[CacheRead]) -> None:
        """Start reading for a step; what is left of the last step, which was cut into parts, is dropped."""
        self._begun = {(tuple(rows), tuple(names)): self._thread.submit(self._pinned, rows, counts, names) for rows, counts, names in asked}

    def read(self, rows: Sequence[int], counts: Sequence[int], names: Sequence[str] = ()) -> list[Tensor]:
        """As TeacherCache.read, with its errors."""
        begun = self._begun.pop((tuple(rows), tuple(names)), None)
        return self.cache.read(rows, counts, names) if begun is None else begun.result()

    def _pinned(self, rows: Sequence[int], counts: Sequence[int], names: Sequence[str]) -> list[Tensor]:
        found = self.cache.read(rows, counts, names)
        return [each.pin_memory() for each in found] if torch.cuda.is_available() else found
