"""Total variation distance, half the L1 distance of the two distributions: bounded by 1, blind to how small a probability is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.objectives import through_softmax_

if TYPE_CHECKING:
    from torch import Tensor


class TotalVariation:
    title = "Total variation"
    summary = "half the L1 distance, bounded"

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        import torch

        torch.sub(p, q, out=ratio)
        value = torch.abs(ratio, out=q).sum(-1 if each else None) / 2
        through_softmax_(p, ratio.sign_().div_(2))
        return value
