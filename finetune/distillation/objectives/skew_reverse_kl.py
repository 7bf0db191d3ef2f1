"""KL(student || mix) with a little student mixed into the teacher: reverse KL with bounded gradients (DistiLLM, arXiv 2402.03898).

With m = (1 - l) q + l p:  D = sum p log(p / m),  dD/dp = log(p / m) - l p / m  (up to a constant, which softmax does not see).
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from finetune.distillation.objectives import through_softmax_

if TYPE_CHECKING:
    from torch import Tensor


class SkewReverseKL:
    title = "Skew reverse KL"
    summary = "reverse KL with bounded gradients"

    def __init__(self, skew: float = 0.1) -> None:
        self.skew = skew

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        import torch

        student_to_mix = torch.logaddexp(ratio.neg_().add_(log(1 - self.skew) - shift), ratio.new_tensor(log(self.skew)), out=ratio).neg_()
        value = torch.mul(p, student_to_mix, out=q).sum(-1 if each else None)
        torch.exp(student_to_mix, out=q)
        through_softmax_(p, student_to_mix.sub_(q, alpha=self.skew))
        return value
