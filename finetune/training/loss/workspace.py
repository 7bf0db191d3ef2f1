"""Memory that is used again and again: the buffers of a loss, and how large its chunks may be.

workspace = Workspace()
logits = workspace.take("student", (rows, vocabulary), hidden, torch.float32)
workspace.chunk_bytes(hidden.device)
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 128 * 2**20
GPU_CHUNK_BYTES = 512 * 2**20  # the most that a chunk takes on a GPU, and at most this share of what is free there:
FREE_SHARE = 1 / 8


class Workspace:
    """Named buffers that live as long as their owner: fresh memory costs a page fault every 4 KiB, more than the arithmetic in it.

    On a GPU, where torch keeps memory at hand, they are let go after each loss: the layers' backward pass can use it.
    """

    def __init__(self, chunk_bytes: int | None = None) -> None:
        self._chunk_bytes = chunk_bytes
        self._buffers: dict[str, Tensor] = {}
        self._narrowed: dict[str, tuple[Any, Tensor]] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
        """A buffer of undefined content, on the device of `like`."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < prod(shape) or buffer.dtype != dtype or buffer.device != like.device:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = torch.empty(prod(shape), dtype=dtype, device=like.device)
        return buffer[: prod(shape)].view(shape)

    def chunk_bytes(self, device: torch.device) -> int:
        """How much a chunk may take; a GPU is asked once what is free, while it holds the activations of a batch."""
        if self._chunk_bytes is None:
            self._chunk_bytes = CHUNK_BYTES
            if device.type == "cuda":
                free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
                self._chunk_bytes = max(CHUNK_BYTES, min(GPU_CHUNK_BYTES, int(free * FREE_SHARE)))
        return self._chunk_bytes

    def let_go(self) -> None:
        """Forget the buffers, but for narrowed weights."""
        self._buffers = {name: buffer for name, buffer in self._buffers.items() if name in self._narrowed}

    def narrow(self, name: str, weight: Tensor, dtype: torch.dtype, *, frozen: bool) -> Tensor:
        """`weight` in autocast's dtype; the copy of a frozen weight is made once."""
        mark = (weight.data_ptr(), weight._version, weight.shape, dtype)
        kept = self._narrowed.get(name)
        narrow = self.take(name, weight.shape, weight, dtype)
        if not (frozen and kept is not None and kept[0] == mark):
            narrow.copy_(weight)
            self._narrowed[name] = (mark, weight)  # kept alive, so that no other weight can reuse its address
        return narrow
