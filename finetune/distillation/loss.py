"""The distillation losses as rules of the chunked head.

    L = alpha * CE(student, label) + (1 - alpha) * T^2 * D(teacher / T, student / T)      summed over the supervised tokens

    rule = Distillation(labels, teacher_logits, ForwardKL(), alpha=0.5, temperature=2.0)
    chunked_loss(hidden, head, rule)

A rule sees the student's logits already divided by T and gives the gradient with respect to those: the first term then weighs
alpha * T in it, the second (1 - alpha) * T^2, its `gain`. Alpha 1 needs no teacher and is handled by CrossEntropy.

Alpha may be one number or one of each token [n], from 0 to 1 included. That costs no pass over the vocabulary: the gains of tokens scale
the small tensors.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from finetune.distillation.objectives import Objective, divergence
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.training.head import Head
from finetune.training.loss.chunked import Rule, of_rows, precision, softmax_
from finetune.training.loss.kernel import Targets, softmax_loss_
from finetune.training.loss.workspace import Workspace


class HardLabels(Rule):
    """The part every distillation loss shares: cross-entropy at temperature 1 next to probabilities at temperature T.

    `sums` are unweighted: `kl`, whichever divergence it is, and `ce` if alpha > 0.
    """

    share: float | Tensor  # of the cross-entropy's gradient in what is written
    hard: Tensor  # weights of the two terms, where tokens have an alpha of their own
    soft: Tensor

    def __init__(self, labels: Tensor, alpha: float | Tensor, temperature: float) -> None:
        super().__init__(labels)
        self.alpha, self.temperature = alpha, temperature
        self.only: Tensor | None = None  # whether the alpha of a token is 1
        if isinstance(alpha, Tensor):
            self.only = alpha == 1
            self.hard, self.soft = alpha, (1 - alpha) * temperature**2
            # What alpha 1 leaves of the divergence is nothing, so its gain cannot be that of the divergence.
            self.gain = torch.where(self.only, temperature, self.soft)
            self.share = torch.where(self.only, 1.0, alpha / ((1 - alpha) * temperature))
            self.has_hard = alpha.device.type != "cpu" or bool((alpha > 0).any())  # a GPU would have to be waited for
        else:
            self.gain = (1 - alpha) * temperature**2
            self.share = alpha * temperature / self.gain
            self.has_hard = bool(alpha)

    @cached_property
    def hard_only(self) -> Tensor | None:
        """Numbers of the tokens whose alpha is 1; None if there is none. A GPU would have to be waited for."""
        return self.only.nonzero().squeeze(1) if self.only is not None and bool(self.only.any()) else None

    def _without_hard_only(self, of_tokens: Tensor) -> Tensor:
        """The tokens [k] or [k, columns] of a block with 0 where alpha is 1, of which no teacher says anything; columns in place."""
        if self.only is not None and self.only.device.type != "cpu":  # one pass more, and no waiting
            only = self.only[self._rows]
            return of_tokens.masked_fill(only, 0.0) if of_tokens.dim() == 1 else of_tokens.masked_fill_(only[:, None], 0.0)
        if self.hard_only is None:
            return of_tokens
        inside = self.hard_only[(self.hard_only >= self._rows.start) & (self.hard_only < self._rows.stop)] - self._rows.start
        return of_tokens.index_fill(0, inside, 0.0) if of_tokens.dim() == 1 else of_tokens.index_fill_(0, inside, 0.0)

    @property
    def each(self) -> bool:
        """Whether tokens have an alpha of their own, so that a divergence is wanted of each."""
        return isinstance(self.alpha, Tensor)

    def before_softmax(self, logits: Tensor, rows: slice, workspace: Workspace) -> None:
        """Take what the cross-entropy needs from logits / T before they are overwritten."""
        self._rows = rows
        if not self.has_hard:
            return
        self._label = self.labels[rows, None]
        self._picked = logits.gather(1, self._label) * self.temperature
        self._hard = workspace.take("hard", logits.shape, logits, logits.dtype)
        weight = of_rows(self.share, rows, logits)
        self._weight = self._share = weight if isinstance(weight, Tensor) else logits.new_full((), weight)  # a copy would wait for a GPU
        if self.temperature not in (1.0, 2.0):
            torch.mul(logits, self.temperature, out=self._hard)
            self._log_sum = softmax_(self._hard)

    def after_softmax(self, p: Tensor, log_sum: Tensor) -> None:
        """The same from p = softmax(logits / T) and its logsumexp [k, 1]."""
        if not self.has_hard:
            return
        if self.temperature == 1.0:
            self._hard.copy_(p)
            self._log_sum = log_sum
        elif self.temperature == 2.0:  # exp(z) is the square of exp(z / 2): a product instead of a second exponential
            total = torch.linalg.vector_norm(p, dim=-1, keepdim=True).square_()
            torch.mul(p, p, out=self._hard)
            self._share = self._weight / total
            self._log_sum = total.log() + 2 * log_sum

    def total(self, gradient: Tensor, divergence: Tensor) -> Tensor:
        """Add the cross-entropy's gradient to the divergence's, both over `gain`; returns the loss of the block.

        `divergence` is the sum over the block, or with `each` that of its tokens [k].
        """
        divergence = self._without_hard_only(divergence)
        self.add("kl", divergence.sum())
        loss = (of_rows(self.soft, self._rows, gradient) * divergence[:, None]).sum() if self.each else self.gain * divergence
        if not self.has_hard:
            return loss
        self._without_hard_only(gradient)
        gradient.addcmul_(self._hard, self._share)
        gradient.scatter_add_(1, self._label, (-self._weight).expand_as(self._label))
        cross_entropy = self._log_sum - self._picked
        self.add("ce", cross_entropy.sum())
        return loss + ((of_rows(self.hard, self._rows, gradient) * cross_entropy).sum() if self.each else self.alpha * cross_entropy.sum())

    def fused_total(
        self, logits: Tensor, rows: slice, dtype: torch.dtype, teacher: Tensor | None, constant: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Gradient and loss of a chunk by one kernel; `constant` [k] is what its divergence lacks."""
        soft: float | Tensor = 1.0 if self.only is None else (~self.only[rows]).to(logits)
        share = self.share[rows] if isinstance(self.share, Tensor) else self.share
        targets = Targets(self.labels[rows], soft, share if self.has_hard else None)
        found = softmax_loss_(logits, targets, teacher=teacher, temperature=self.temperature, dtype=dtype)
        divergence = found.divergence + constant
        if self.only is not None:
            divergence = divergence * soft
        self.add("kl", divergence.sum())
        loss = (self.soft[rows] * divergence).sum() if self.each else self.gain * divergence.sum()
        if self.has_hard:
            self.add("ce", found.cross_entropy.sum())
            loss = loss + (self.hard[rows] * found.cross_entropy if self.each else self.alpha * found.cross_entropy).sum()
        return found.gradient, loss


class TeacherLogits(Protocol):
    """What gives a teacher's logits chunk by chunk, as ChunkLogits does."""

    @property
    def bytes_per_row(self) -> int: ...

    def load(self, rows: slice, workspace: Workspace) -> None: ...

    def block(self, rows: slice, workspace: Workspace) -> Tensor: ...


class Distillation(HardLabels):
    """Student against the teacher's logits, for any objective; `teacher` are those of the same tokens, at the same temperature."""

    def __init__(self, labels: Tensor, teacher: TeacherLogits, objective: Objective, alpha: float | Tensor, temperature: float) -> None:
        super().__init__(labels, alpha, temperature)
        self.teacher, self.objective = teacher, objective
        self.bytes_per_row = teacher.bytes_per_row
        self.cuts = getattr(teacher, "cuts", ())
        self.fuses = type(objective) is ForwardKL
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
        return self.total(logits, divergence(self.objective, logits, q, ratio, shift, each=self.each))

    def fused(self, logits: Tensor, rows: slice, workspace: Workspace, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.fused_total(logits, rows, dtype, self.teacher.block(slice(0, len(logits)), workspace))


class CachedGradient(HardLabels):
    """Forward KL when the student's head is frozen, from two cached quantities; the teacher is not needed any more.

    With q the teacher's distribution at T and W the student's head, `centre` [n, d] = q @ W and `negentropy` [n] = sum q log q (less
    q . bias / T if the head has a bias) give KL = negentropy - hidden . centre * scale / T + logsumexp(logits / T), whose gradient is that
    of the last term minus `centre`. A soft-capped head is not linear: it has no such cache.
    """

    fuses = True

    def __init__(
        self,
        labels: Tensor,
        hidden: Tensor,
        head: Head,
        centre: Tensor,
        negentropy: Tensor,
        alpha: float | Tensor,
        temperature: float,
    ) -> None:
        super().__init__(labels, alpha, temperature)
        precise = precision(centre.dtype)
        self.centre = centre.to(precise)
        self.constant = negentropy.to(precise) - (hidden.detach().to(precise) * self.centre).sum(-1) * (head.scale / temperature)

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        self.before_softmax(logits, rows, workspace)
        log_sum = softmax_(logits)
        self.after_softmax(logits, log_sum)
        constant = self.constant[rows]
        return self.total(logits, log_sum.squeeze(-1) + constant if self.each else log_sum.sum() + constant.sum())

    def fused(self, logits: Tensor, rows: slice, workspace: Workspace, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.fused_total(logits, rows, dtype, None, self.constant[rows])

    def correct(self, grad_hidden: Tensor, rows: slice, factor: float) -> None:
        if isinstance(self.gain, Tensor):
            grad_hidden.addcmul_(self.centre[rows], self.soft[rows, None].to(grad_hidden), value=-factor)
        else:
            grad_hidden.sub_(self.centre[rows], alpha=self.gain * factor)
