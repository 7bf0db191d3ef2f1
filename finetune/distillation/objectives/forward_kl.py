"""KL(teacher || student), the classic: the student covers everything the teacher finds likely (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class ForwardKL:
    title = "Forward KL"
    summary = "the student covers everything the teacher finds likely; the default"
    mixes = "q"  # it is linear in it: see finetune/distillation/teachers/mixture.py

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        if each:
            import torch

            value: Tensor = -torch.linalg.vecdot(ratio, q) - shift.squeeze(-1)
        else:
            value = -ratio.flatten().dot(q.flatten()) - shift.sum()  # q sums to 1
        p.sub_(q)
        return value
