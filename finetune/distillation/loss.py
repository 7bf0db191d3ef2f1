"""The distillation losses as rules of the chunked head.

    L = alpha * CE(student, label) + (1 - alpha) * T^2 * D(teacher / T, student / T)        summed over the supervised tokens

    rule = Distillation(labels, teacher_logits, ForwardKL(), alpha=0.5, temperature=2.0)
    chunked_loss(hidden, head, rule)

A rule sees the student's logits already divided by T and gives the gradient with respect to those: the first term then weighs
alpha * T in it, the second (1 - alpha) * T^2, its `gain`. Alpha 1 needs no teacher and is handled by CrossEntropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.distillation.objectives import Objective
from finetune.training.chunked_loss import ChunkLogits, Rule, Workspace, softmax_
from finetune.training.head import Head


class HardLabels(Rule):
    """The part every distillation loss shares: cross-entropy at temperature 1 next to probabilities at temperature T.

    `sums` are unweighted: `kl`, whichever divergence it is, and `ce` if alpha > 0.
    """

    def __init__(self, labels: Tensor, alpha: float, temperature: float) -> None:
        super().__init__(labels)
        self.alpha, self.temperature = alpha, temperature
        self.gain = (1 - alpha) * temperature**2
        self.weight = alpha * temperature / self.gain  # of the cross-entropy's gradient

    def before_softmax(self, logits: Tensor, rows: slice, workspace: Workspace) -> None:
        """Take what the cross-entropy needs from logits / T before they are overwritten."""
        if not self.alpha:
            return
        self._label = self.labels[rows, None]
        self._picked = logits.gather(1, self._label) * self.temperature
        self._hard = workspace.take("hard", logits.shape, logits, logits.dtype)
        self._share = logits.new_tensor(self.weight)
        if self.temperature not in (1.0, 2.0):
            torch.mul(logits, self.temperature, out=self._hard)
            self._log_sum = softmax_(self._hard)

    def after_softmax(self, p: Tensor, log_sum: Tensor) -> None:
        """The same from p = softmax(logits / T) and its logsumexp [k, 1]."""
        if not self.alpha:
            return
        if self.temperature == 1.0:
            self._hard.copy_(p)
            self._log_sum = log_sum
        elif self.temperature == 2.0:  # exp(z) is the square of exp(z / 2): a product instead of a second exponential
            total = torch.linalg.vector_norm(p, dim=-1, keepdim=True).square_()
            torch.mul(p, p, out=self._hard)
            self._share = self.weight / total
            self._log_sum = total.log() + 2 * log_sum

    def total(self, gradient: Tensor, divergence: Tensor) -> Tensor:
        """Add the cross-entropy's gradient to the divergence's, both over `gain`; returns the loss of the block."""
        self._add("kl", divergence)
        if not self.alpha:
            return self.gain * divergence
        gradient.addcmul_(self._hard, self._share)
        gradient.scatter_add_(1, self._label, gradient.new_full((1, 1), -self.weight).expand_as(self._label))
        cross_entropy = (self._log_sum - self._picked).sum()
        self._add("ce", cross_entropy)
        return self.alpha * cross_entropy + self.gain * divergence

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0) + value


class Distillation(HardLabels):
    """Student against the teacher's logits, for any objective; `teacher` are those of the same tokens, at the same temperature."""

    def __init__(self, labels: Tensor, teacher: ChunkLogits, objective: Objective, alpha: float, temperature: float) -> None:
        super().__init__(labels, alpha, temperature)
        self.teacher, self.objective = teacher, objective
        self.bytes_per_row = teacher.bytes_per_row
        self._start = 0

    def load(self, rows: slice, workspace: Workspace) -> None:
        self._start = rows.start
        self.teacher.load(rows, workspace)

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        q = self.teacher.block(slice(rows.start - self._start, rows.stop - self._start), workspace)
        ratio = torch.sub(logits, q, out=workspace.take("ratio", logits.shape, logits, logits.dtype))
        self.before_softmax(logits, rows, workspace)
        log_sum = softmax_(logits)
        shift = softmax_(q) - log_sum
        self.after_softmax(logits, log_sum)
        return self.total(logits, self.objective(logits, q, ratio, shift))


class CachedGradient(HardLabels):
    """Forward KL when the student's head is frozen, from two cached quantities; the teacher is not needed any more.

    With q the teacher's distribution at T and W the student's head, `centre` [n, d] = q @ W and `negentropy` [n] = sum q log q (less
    q . bias / T if the head has a bias) give KL = negentropy - hidden . centre * scale / T + logsumexp(logits / T), whose gradient is that
    of the last term minus `centre`. A soft-capped head is not linear: it has no such cache.
    """

    def __init__(
        self, labels: Tensor, hidden: Tensor, head: Head, centre: Tensor, negentropy: Tensor, alpha: float, temperature: float
    ) -> None:
        super().__init__(labels, alpha, temperature)
        precise = torch.float64 if centre.dtype == torch.float64 else torch.float32
        self.centre = centre.to(precise)
        self.constant = negentropy.to(precise) - (hidden.detach().to(precise) * self.centre).sum(-1) * (head.scale / temperature)

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        self.before_softmax(logits, rows, workspace)
        log_sum = softmax_(logits)
        self.after_softmax(logits, log_sum)
        return self.total(logits, log_sum.sum() + self.constant[rows].sum())

    def correct(self, grad_hidden: Tensor, rows: slice, factor: float) -> None:
        grad_hidden.sub_(self.centre[rows], alpha=self.gain * factor)
