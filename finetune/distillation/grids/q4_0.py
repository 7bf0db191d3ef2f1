"""Q4_0 of ggml: blocks of 32 weights, 16 steps from -8 to 7 of one scale in half precision; the largest weight of a block is step -8.

The arithmetic is that of gguf-py (quants.py), operation by operation, so that every weight is the file's bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.grids import Grid, in_blocks

if TYPE_CHECKING:
    from torch import Tensor


class Q4_0(Grid):
    title = "Q4_0"
    summary = "4 bits, for llama.cpp, Ollama and LM Studio; fastest there"
    block = 32
    file_type = "q4_0"

    def snapped(self, weight: Tensor) -> Tensor:
        return in_blocks(weight, self.block, _snapped)


def _snapped(blocks: Tensor) -> Tensor:
    import torch

    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))  # of two equal ones the first
    scale = largest / -8
    steps = (blocks * torch.where(scale == 0, 0, 1 / scale)).add_(8.5).trunc_().clamp_(0, 15).sub_(8)
    return steps.mul_(scale.to(torch.float16).to(torch.float32))
