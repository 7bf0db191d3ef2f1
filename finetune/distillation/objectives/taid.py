"""Forward KL to a teacher that comes from the student's side: first a mix of both, at the end the teacher (TAID, arXiv 2501.16937).

With logits z of the student, held fixed, and t of the teacher: D = KL(q' || p) for q' = softmax((1 - tau) z + tau t), so dD/dz = p - q'.
`tau` rises evenly from START to 1 over the training, so it follows from the step alone; the paper's variant also looks at the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

START = 0.4  # as in the paper


class TAID:
    title = "TAID"
    summary = "forward KL to a mix that moves from student to teacher; for a teacher that is far ahead"
    tau = 1.0  # outside a training: forward KL

    def at(self, done: float) -> None:
        """Set tau for a training of which the share `done` is behind."""
        self.tau = START + (1 - START) * done

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        import torch

        toward = ratio.add_(shift).mul_(-self.tau)  # tau (log q - log p), which is log q' - log p up to a constant of each token
        mixed = torch.add(toward, torch.log(p, out=q), out=q)
        log_sum = torch.logsumexp(mixed, -1, keepdim=True)
        mixed.sub_(log_sum).exp_()
        value: Tensor = torch.linalg.vecdot(mixed, toward) - log_sum.squeeze(-1)
        p.sub_(mixed)
        return value if each else value.sum()
