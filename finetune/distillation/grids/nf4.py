"""NF4 of bitsandbytes: blocks of 64 weights, 16 quantiles of a normal distribution times the block's largest (Dettmers et al. 2023).

Blocks run on from row to row; bitsandbytes 0.50 itself forgets that on a CPU with AVX-512, and reads rows that are no whole blocks with
wrong scales. The scales stay in 32 bits: with double quantisation bitsandbytes rounds them too, and this does not.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from finetune.distillation.grids import Grid, in_blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 64
QUANTILES = (  # of the paper's appendix E, in the digits of bitsandbytes
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
SMALLEST = 1e-38  # in place of the zero that a block of zeros would be divided by


class NF4(Grid):
    title = "NF4"
    summary = "4 bits, for bitsandbytes; there is no GGUF type for it"
    rounds_head = False

    def snapped(self, weight: Tensor) -> Tensor:
        import torch

        flat = weight.detach().to(torch.float32).reshape(-1)
        whole = len(flat) // BLOCK * BLOCK
        parts = [in_blocks(flat[:whole], BLOCK, _snapped)]
        if whole < len(flat):
            parts.append(_snapped(flat[whole:][None], last=True)[0])
        return torch.cat(parts).view(weight.shape)


def _snapped(blocks: Tensor, *, last: bool = False) -> Tensor:
    """The `last` block, if it is not whole, is divided by its largest; the others are multiplied by its inverse, which rounds otherwise."""
    import torch

    quantiles = _quantiles(blocks.device)
    largest = blocks.abs().amax(1, keepdim=True)
    scale = largest.clamp(min=SMALLEST)
    scaled = (blocks / scale if last else blocks * (1.0 / scale)).clamp_(-1, 1)
    return quantiles[torch.bucketize(scaled, (quantiles[:-1] + quantiles[1:]) / 2)].mul_(scale if last else largest)


@cache
def _quantiles(device: torch.device) -> Tensor:
    import torch

    from finetune.training.batches import sent

    return sent(torch.tensor(QUANTILES), device)
