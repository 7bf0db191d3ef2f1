"""What a cache holds of the rows of a step, read by a thread while the student's layers are at work.

    ahead = ReadAhead(cache)
    ahead.begin([([3, 1], [40, 25])])       # the batches of a step: rows, and their supervised tokens
    values, negentropy = ahead.read([3, 1], [40, 25])
    (states,) = ahead.inside(["layer.3"], [3, 1], [40, 25])

The tensors are pinned: a GPU copies from such memory by itself, and nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from finetune.distillation.cache import TeacherCache

Answer = tuple[Tensor, Tensor | None]
Asked = tuple[tuple[str, ...], Sequence[int], Sequence[int]]  # what TeacherCache.inside takes


class ReadAhead:
    """Reads a cache, of what was begun ahead; anything else when it is asked for."""

    def __init__(self, cache: TeacherCache) -> None:
        self.cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher cache")
        self._begun: dict[tuple[int, ...], Future[Answer]] = {}
        self._inside: dict[tuple[Sequence[str], tuple[int, ...]], Future[list[Tensor]]] = {}

    def begin(self, batches: Iterable[tuple[Sequence[int], Sequence[int]]], inside: Iterable[Asked] = ()) -> None:
        """Begin with a step; what is left of the last one, which was cut into parts, is forgotten."""
        self._begun = {tuple(rows): self._thread.submit(self._pinned, rows, counts) for rows, counts in batches}
        self._inside = {
            (names, tuple(rows)): self._thread.submit(self._pinned_inside, names, rows, counts) for names, rows, counts in inside
        }

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Answer:
        """As TeacherCache.read, with its errors."""
        begun = self._begun.pop(tuple(rows), None)
        return self.cache.read(rows, counts) if begun is None else begun.result()

    def inside(self, names: Sequence[str], rows: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
        """As TeacherCache.inside, with its errors."""
        begun = self._inside.pop((tuple(names), tuple(rows)), None)
        return self.cache.inside(names, rows, counts) if begun is None else begun.result()

    def _pinned_inside(self, names: Sequence[str], rows: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
        found = self.cache.inside(names, rows, counts)
        return [each.pin_memory() for each in found] if torch.cuda.is_available() else found

    def _pinned(self, rows: Sequence[int], counts: Sequence[int]) -> Answer:
        values, negentropy = self.cache.read(rows, counts)
        if not torch.cuda.is_available():
            return values, negentropy
        return values.pin_memory(), None if negentropy is None else negentropy.pin_memory()
