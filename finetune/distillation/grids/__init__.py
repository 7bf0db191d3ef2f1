"""Grids: the values that weights in few bits can have. One small file each, found by name in the registry.

    grid = registry.load("grids", "q4_0")
    grid.snapped(weight)            # each weight as the file will have it, in float32
    grid.block                      # 32: a row has to be whole blocks; None: rows of any length
    grid.file_type                  # "q4_0", the type of a GGUF file; None where GGUF has none

Weights are [out, in], as the layer multiplies by them. Snapping snapped weights changes nothing, so what was saved in 32 bits becomes the
same file again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 2**18  # weights: what is computed of them stays in a processor's cache


class Grid:
    """What every grid has. `snapped` takes weights of any float type and gives float32; gradients are the caller's affair."""

    title: ClassVar[str]
    summary: ClassVar[str]
    block: ClassVar[int | None] = None
    file_type: ClassVar[str | None] = None
    rounds_head: ClassVar[bool] = True  # whether programs that read it have embeddings and head in few bits too

    def snapped(self, weight: Tensor) -> Tensor:
        """The weights as they are read back; raises nothing for rows that are no whole blocks: see quantised.py here."""
        raise NotImplementedError


def in_blocks(weight: Tensor, size: int, snap: Callable[[Tensor], Tensor]) -> Tensor:
    """`snap` of [blocks, size], a part of the blocks at a time; the weights are as many as whole blocks."""
    import torch

    blocks: Any = weight.detach().to(torch.float32).contiguous().view(-1, size)
    made = torch.empty_like(blocks)
    for start in range(0, len(blocks), AT_ONCE // size):
        part = slice(start, start + AT_ONCE // size)
        made[part] = snap(blocks[part])
    return made.view(weight.shape)
