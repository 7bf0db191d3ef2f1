"""Autograd functions of the terms, which compute the gradient in the forward pass and keep only that, as large as the student's tensor.

    relative_distance(student, teacher)                         # of states [n, d]
    relation_divergence(student, teacher, heads, batch)         # of projections [rows, length, width]

Both are summed and can be differentiated once by `student`. They compute in float32, or in float64 for float64 states.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, cast

import torch
from torch import Tensor

from finetune.distillation.terms import Batch
from finetune.training.loss.chunked import chunks, precision

SCORE_BYTES = 32 * 2**20  # of the scores of one head that exist at once


def relative_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over tokens of ||s - t||^2 / (2 ||t||^2): each token by its own length, because those of the first tokens are extreme."""
    return cast(Tensor, _Distance.apply(student, teacher.detach()))  # type: ignore[no-untyped-call]


def relation_divergence(student: Tensor, teacher: Tensor, heads: int, batch: Batch) -> Tensor:
    """Sum over places, by their shares, of the mean over heads of KL(R_T || R_S); see relations.py."""
    return cast(Tensor, _Relations.apply(student, teacher.detach(), heads, batch.real.bool(), batch.shares))  # type: ignore[no-untyped-call]


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        precise = precision(student.dtype)
        theirs = teacher.to(precise)
        apart = student.to(precise) - theirs
        length = theirs.square().sum(-1, keepdim=True).clamp_min(torch.finfo(precise).tiny)
        slope = apart / length
        ctx.save_for_backward(slope.to(student.dtype))
        return apart.mul_(slope).sum() / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None


class _Relations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, heads: int, real: Tensor, shares: Tensor) -> Tensor:
        precise, (rows, length, width) = precision(student.dtype), student.shape
        total = torch.zeros((), dtype=precise, device=student.device)
        slope = torch.empty(rows, length, width, dtype=precise, device=student.device)
        later = torch.ones(length, length, dtype=torch.bool, device=student.device).triu_(1)
        # A place sees itself, or padding would see nothing and be NaN; its share is zero.
        unseen = later | ~(real[:, None, :] | torch.eye(length, dtype=torch.bool, device=student.device))  # [rows, length, length]
        with torch.autocast(student.device.type, enabled=False):
            for part in chunks(rows, length * length * precise.itemsize, SCORE_BYTES):
                weights, hidden = shares[part, :, None].to(precise) / heads, unseen[part]
                for head in range(heads):
                    mine, theirs = _head(student[part], head, heads, precise), _head(teacher[part], head, heads, precise)
                    ours, others = _log_relations(mine, hidden), _log_relations(theirs, hidden)
                    taught = others.exp()
                    total += (taught * others.sub_(ours).masked_fill_(hidden, 0) * weights).sum()
                    gradient = ours.exp_().sub_(taught).mul_(weights)  # by the scores, whose two sides are the same X
                    r = mine.shape[-1]
                    slope[part, :, head * r : (head + 1) * r] = (gradient @ mine + gradient.mT @ mine) / sqrt(r)
        ctx.save_for_backward(slope.to(student.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None, None, None


def _head(projected: Tensor, head: int, heads: int, precise: torch.dtype) -> Tensor:
    """One head [rows, length, r] of projections [rows, length, heads * r]."""
    width = projected.shape[-1] // heads
    return projected[..., head * width : (head + 1) * width].to(precise)


def _log_relations(x: Tensor, hidden: Tensor) -> Tensor:
    """log softmax(x x^T / sqrt r) over what is not `hidden` [rows, length, length]; -inf there."""
    return (x @ x.mT).div_(sqrt(x.shape[-1])).masked_fill_(hidden, -torch.inf).log_softmax(-1)
