"""Softmax losses and their gradients on a GPU in two passes over the logits; textbook operations take six.

    if fuses(logits.device):
        found = softmax_loss_(logits, targets, teacher=None, temperature=2.0, dtype=torch.bfloat16)
        found.gradient, found.divergence, found.cross_entropy

The first pass finds the sum of the exponentials of a row while its maximum is still being found (Milakov and Gimelshein 2018,
arXiv 1805.02867), the second writes the gradient. It is written over the logits that it comes from, in the dtype of the products that
follow: a row of 16-bit numbers at the start of its row of 32-bit ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from subprocess import SubprocessError
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 8192  # numbers of a row that one program holds at a time
WARPS = 16
NO_TRITON = "Triton is not installed"
# Of a compiler that is missing or fails, and of a Triton that is not the one torch was made with.
ERRORS = (SubprocessError, RuntimeError, OSError, ImportError, AssertionError, AttributeError, TypeError, ValueError)


@dataclass(frozen=True)
class Targets:
    """What a loss wants of each token [n]: its label, and how much the two parts of the gradient count.

    `soft` weighs softmax(logits / T) - teacher, `hard` weighs softmax(logits) - label; None leaves a part out, a number is that of all.
    """

    labels: Tensor
    soft: float | Tensor | None
    hard: float | Tensor | None


class Found(NamedTuple):
    """The gradient [k, vocabulary] with respect to logits / T, and of each token [k] what was asked for.

    `divergence` is KL(teacher, student), or without a teacher the logarithm of the sum of exp(logits / T).
    """

    gradient: Tensor
    divergence: Tensor
    cross_entropy: Tensor


def fuses(device: torch.device) -> bool:
    """Whether the kernel works there: on a CUDA GPU, where Triton can compile it."""
    return device.type == "cuda" and trouble() is None


@cache
def trouble(device: str = "cuda") -> str | None:
    """Why the kernel does not work on this machine, in a few words, or None: it is tried once, on eight numbers.

    Triton comes with torch for CUDA on Linux, and needs a C compiler and Python's headers on the machine.
    """
    try:
        from triton.errors import TritonError
    except ImportError:
        return NO_TRITON
    try:
        label = torch.zeros(1, dtype=torch.long, device=device)
        targets = Targets(label, None, 1.0)
        found = softmax_loss_(torch.zeros(1, 8, device=device), targets, teacher=None, temperature=1.0, dtype=torch.float32)
        right = math.isclose(float(found.cross_entropy), math.log(8), rel_tol=1e-4)
    except (TritonError, *ERRORS) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return None if right else "the kernel that Triton makes gives wrong numbers"


def softmax_loss_(logits: Tensor, targets: Targets, *, teacher: Tensor | None, temperature: float, dtype: torch.dtype) -> Found:
    """Overwrite logits / T [k, vocabulary], float32 and without gaps, with a gradient in `dtype` (no wider than 32 bits).

    `teacher` are a teacher's logits / T, of the same shape. The cross-entropy is that at temperature 1; what has no weight is not computed.
    """
    size, vocabulary = logits.shape
    found = torch.empty(2, size, dtype=torch.float32, device=logits.device)
    gradient = logits if dtype == logits.dtype else logits.view(dtype)[:, :vocabulary]
    soft, hard = (
        weight.to(torch.float32) if isinstance(weight, Tensor) else torch.full((size,), weight or 0.0, device=logits.device)
        for weight in (targets.soft, targets.hard)
    )
    _kernel()[(size,)](
        logits,
        logits if teacher is None else teacher,
        gradient,
        targets.labels,
        soft,
        hard,
        found,
        size,
        logits.stride(0),
        logits.stride(0) if teacher is None else teacher.stride(0),
        gradient.stride(0),
        float(temperature),
        VOCABULARY=vocabulary,
        SOFT=targets.soft is not None,
        TEACHER=teacher is not None,
        HARD=targets.hard is not None,
        ONE=temperature == 1.0,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return Found(gradient, found[0], found[1])


@cache
def _kernel() -> Any:
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator,unused-ignore]
    def softmax_loss(  # type: ignore[no-untyped-def]
        logits, teacher, gradient, labels, soft, hard, found, size, logits_row, teacher_row, gradient_row, temperature,
        VOCABULARY: tl.constexpr, SOFT: tl.constexpr, TEACHER: tl.constexpr, HARD: tl.constexpr, ONE: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        token = tl.program_id(0).to(tl.int64)
        logits += token * logits_row
        teacher += token * teacher_row
        gradient += token * gradient_row
        label = tl.load(labels + token)
        picked = tl.load(logits + label) * temperature
        places = tl.arange(0, BLOCK)
        # Not minus infinity: a row may begin with a block of it, and infinity less infinity is no number.
        top, top_teacher, total, total_hard, total_teacher = -1e38, -1e38, 0.0, 0.0, 0.0
        for start in range(0, VOCABULARY, BLOCK):
            inside = start + places < VOCABULARY
            z = tl.load(logits + start + places, mask=inside, other=-float("inf"))
            new = tl.maximum(top, tl.max(z, 0))
            total = total * tl.exp(top - new) + tl.sum(tl.exp(z - new), 0)
            if HARD and not ONE:
                total_hard = total_hard * tl.exp((top - new) * temperature) + tl.sum(tl.exp((z - new) * temperature), 0)
            top = new
            if TEACHER:
                t = tl.load(teacher + start + places, mask=inside, other=-float("inf"))
                new = tl.maximum(top_teacher, tl.max(t, 0))
                total_teacher = total_teacher * tl.exp(top_teacher - new) + tl.sum(tl.exp(t - new), 0)
                top_teacher = new
        log_sum = top + tl.log(total)
        log_sum_hard = log_sum if ONE else top * temperature + tl.log(total_hard)
        log_sum_teacher = top_teacher + tl.log(total_teacher)
        soft_weight, hard_weight = tl.load(soft + token), tl.load(hard + token)
        divergence = 0.0
        for start in range(0, VOCABULARY, BLOCK):
            inside = start + places < VOCABULARY
            z = tl.load(logits + start + places, mask=inside, other=-float("inf"))
            slope = tl.zeros((BLOCK,), tl.float32)
            if SOFT:
                slope = tl.exp(z - log_sum)
                if TEACHER:
                    t = tl.load(teacher + start + places, mask=inside, other=-float("inf"))
                    q = tl.exp(t - log_sum_teacher)
                    slope -= q
                    divergence += tl.sum(tl.where(q > 0, q * ((t - log_sum_teacher) - (z - log_sum)), 0.0), 0)
                slope *= soft_weight
            if HARD:
                p = tl.exp(z - log_sum) if ONE else tl.exp(z * temperature - log_sum_hard)
                slope += hard_weight * (p - tl.where(start + places == label, 1.0, 0.0))
            tl.debug_barrier()  # narrower numbers go where others have still to be read from
            tl.store(gradient + start + places, slope.to(gradient.dtype.element_ty), mask=inside)
        tl.store(found + token, divergence if TEACHER else log_sum)
        if HARD:
            tl.store(found + size + token, log_sum_hard - picked)

    return softmax_loss
