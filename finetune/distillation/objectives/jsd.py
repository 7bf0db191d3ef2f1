"""Generalised Jensen-Shannon divergence between forward (beta near 0) and reverse KL (beta near 1) (GKD, arXiv 2306.13649).

With m = beta q + (1 - beta) p:  D = beta KL(q || m) + (1 - beta) KL(p || m),  dD/dp = (1 - beta) log(p / m).
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from finetune.distillation.objectives import through_softmax_

if TYPE_CHECKING:
    from torch import Tensor


class GeneralisedJSD:
    title = "Generalised JSD"
    summary = "between forward and reverse KL, bounded"

    def __init__(self, beta: float = 0.5) -> None:
        self.beta = beta

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        import torch

        beta, ratio = self.beta, ratio.add_(shift)
        student_to_mix = torch.logaddexp(log(beta) - ratio, ratio.new_tensor(log(1 - beta))).neg_()  # log(p / m)
        teacher_to_mix = ratio.neg_().add_(student_to_mix)  # log(q / m)
        over = -1 if each else None
        value = beta * q.mul_(teacher_to_mix).sum(over) + (1 - beta) * torch.mul(p, student_to_mix, out=ratio).sum(over)
        through_softmax_(p, student_to_mix.mul_(1 - beta))
        return value
