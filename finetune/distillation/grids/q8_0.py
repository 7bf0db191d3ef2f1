"""Q8_0 of ggml: blocks of 32 weights, 255 steps from -127 to 127 of one scale in half precision.

The arithmetic is that of gguf-py (quants.py), operation by operation, so that every weight is the file's bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.grids import Grid, in_blocks

if TYPE_CHECKING:
    from torch import Tensor


class Q8_0(Grid):
    title = "Q8_0"
    summary = "8 bits, for llama.cpp, Ollama and LM Studio; nearly lossless anyway"
    block = 32
    file_type = "q8_0"

    def snapped(self, weight: Tensor) -> Tensor:
        return in_blocks(weight, self.block, _snapped)


def _snapped(blocks: Tensor) -> Tensor:
    import torch

    scale = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * torch.where(scale == 0, 0, 1 / scale)
    size = scaled.abs()
    whole = size.floor()
    steps = whole.add_((size - whole).mul_(2).floor_()).mul_(scaled.sign())  # halves away from zero
    return steps.add_(0.0).mul_(scale.to(torch.float16).to(torch.float32))  # a zero without a sign, as whole numbers have it
