"""KL(student || teacher): the student concentrates on what the teacher finds most likely (MiniLLM, arXiv 2306.08543)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class ReverseKL:
    title = "Reverse KL"
    summary = "the student concentrates on what the teacher finds most likely"
    mixes = "log q"  # it is linear in it: see finetune/distillation/teachers/mixture.py

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        weighted = ratio.add_(shift).mul_(p)
        value = weighted.sum(-1, keepdim=True)
        p.mul_(-value).add_(weighted)
        return value.squeeze(-1) if each else value.sum()
