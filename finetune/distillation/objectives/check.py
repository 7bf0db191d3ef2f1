"""A check of an objective's gradient against the slope of its value, for tests of your own.

    from finetune.distillation.objectives.check import check_gradient
    check_gradient(SymmetricKL())         # nothing, or an AssertionError that names the place and both numbers

It needs no model: a few tokens of random logits in float64, moved one at a time.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

from finetune.distillation.objectives import Objective, divergence

if TYPE_CHECKING:
    from torch import Tensor

STEP = 1e-5
SHIFT = 0.25  # an objective gets `ratio` and `shift` apart, and must add them


def check_gradient(objective: Objective, *, tokens: int = 4, vocabulary: int = 9, tolerance: float = 1e-6, seed: int = 3) -> None:
    """Raises AssertionError where the gradient that `objective` leaves in p is not the slope of the value that it returns.

    The value must also be finite, one number, 0 where student and teacher are equal and nowhere negative: it is a divergence. One that
    takes `each` must return of each token what it returns of that token alone, and leave the same gradient.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64) for _ in range(2))
    value, gradient = _called(objective, student, teacher)
    if value < -tolerance:
        raise AssertionError(f"The value is {value:g}; a divergence is never negative.")
    same, _ = _called(objective, student, student.clone())
    if abs(same) > tolerance:
        raise AssertionError(f"The value is {same:g} for a student that equals its teacher; it must be 0.")
    _check_each(objective, student, teacher, gradient, tolerance)
    for token in range(tokens):
        for word in range(vocabulary):
            moved = torch.zeros_like(student)
            moved[token, word] = STEP
            slope = (_called(objective, student + moved, teacher)[0] - _called(objective, student - moved, teacher)[0]) / (2 * STEP)
            given = float(gradient[token, word])
            if abs(given - slope) > tolerance * max(1.0, abs(slope)):
                raise AssertionError(
                    f"The gradient for token {token}, word {word} is {given:.9f}, and the slope of the value there is {slope:.9f}."
                )


def _check_each(objective: Objective, student: Tensor, teacher: Tensor, gradient: Tensor, tolerance: float) -> None:
    """Raises AssertionError where `each=True` gives something else than the tokens one by one; nothing for one that does not take it."""
    if "each" not in signature(objective).parameters:
        return
    p, *others = _given(student, teacher)
    values = divergence(objective, p, *others, each=True)
    if tuple(values.shape) != (len(p),):
        raise AssertionError(f"With each=True the value has the shape {[*values.shape]}; it must be [{len(p)}], one number a token.")
    for token, given in enumerate(values.tolist()):
        alone, _ = _called(objective, student[token : token + 1], teacher[token : token + 1])
        if abs(given - alone) > tolerance * max(1.0, abs(alone)):
            raise AssertionError(f"With each=True the value of token {token} is {given:.9f}, and alone it is {alone:.9f}.")
    if float((p - gradient).abs().max()) > tolerance:
        raise AssertionError("With each=True the gradient is another than without.")


def _given(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an objective is called with."""
    import torch

    p, q = torch.softmax(student, -1), torch.softmax(teacher, -1)
    return p, q.clone(), p.log() - q.log() - SHIFT, torch.full((len(p), 1), SHIFT, dtype=p.dtype)


def _called(objective: Objective, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
    """The value, and what p has become."""
    import torch

    p, *others = _given(student, teacher)
    value = objective(p, *others)
    if not torch.is_tensor(value) or value.numel() != 1 or not bool(torch.isfinite(value).all()):
        raise AssertionError(f"The value is {value!r}; it must be one finite number, the sum over the tokens.")
    if not bool(torch.isfinite(p).all()):
        raise AssertionError("The gradient in p has numbers that are not finite.")
    return float(value), p
