"""KL(teacher || mix) with a little teacher mixed into the student: forward KL with bounded gradients (DistiLLM, arXiv 2402.03898).

With m = l q + (1 - l) p:  D = sum q log(q / m),  dD/dp = -(1 - l) q / m.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from finetune.distillation.objectives import through_softmax_

if TYPE_CHECKING:
    from torch import Tensor


class SkewForwardKL:
    title = "Skew forward KL"
    summary = "forward KL with bounded gradients"

    def __init__(self, skew: float = 0.1) -> None:
        self.skew = skew

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        import torch

        teacher_to_mix = torch.logaddexp(ratio.add_(shift + log(1 - self.skew)), ratio.new_tensor(log(self.skew)), out=ratio).neg_()
        value = q.mul_(teacher_to_mix).sum(-1 if each else None)
        through_softmax_(p, teacher_to_mix.exp_().mul_(self.skew - 1))
        return value
