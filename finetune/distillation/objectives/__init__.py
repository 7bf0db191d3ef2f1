"""How far the student's distribution is from the teacher's: one small file per divergence, found by name in the registry.

An objective is an object that is called with one block of tokens at the run's temperature: three buffers [k, vocabulary] in full
precision that it may overwrite, and a column [k, 1]:

    value = objective(p, q, ratio, shift)        # p student, q teacher, ratio + shift = log p - log q

It overwrites `p` with the gradient of D(p, q) with respect to the student's logits (those whose softmax is p) and returns the sum of D
over the tokens, a scalar tensor; called with `each=True` it returns D of each token [k]. One that does not take `each` is asked token by
token where tokens have an alpha of their own. `shift` is separate because the default objective can skip that pass over the vocabulary.
One that changes during a training has `at(done)`, which is called before each batch with the share of the steps that is done.
Its `title` and `summary` are what the wizard shows, so torch is imported only where it computes. Add one: a file here or in another
package, and a line in the registry or an entry point; docs/extending.md has a complete example.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor


APPROXIMATE = "approximate_kl"  # among the parts of a loss: a divergence of less than whole distributions


class Objective(Protocol):
    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor) -> Tensor: ...


def divergence(objective: Any, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool) -> Tensor:
    """What an objective returns, or with `each` D of each token [k]: of one that has no such way token by token."""
    if not each:
        return cast("Tensor", objective(p, q, ratio, shift))
    if "each" in signature(objective).parameters:
        return cast("Tensor", objective(p, q, ratio, shift, each=True))
    import torch

    rows = [slice(row, row + 1) for row in range(len(p))]
    return torch.stack([objective(p[row], q[row], ratio[row], shift[row]) for row in rows])


def through_softmax_(p: Tensor, slope: Tensor) -> None:
    """Overwrite p with p * (slope - sum(p * slope)): a gradient `slope` = dD/dp seen from the logits behind p."""
    weighted = slope.mul_(p)
    p.mul_(-weighted.sum(-1, keepdim=True)).add_(weighted)
