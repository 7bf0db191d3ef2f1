"""Several teachers at once: mixed, all for every token by their weights, or routed, each for its own rows.

    rule = mixed(labels, [of_a, of_b], [0.7, 0.3], ForwardKL(), alpha=0.5, temperature=2.0)       # ChunkLogits of the same tokens
    rule = Distillation(labels, Routed([0, 40], [of_a, of_b]), ForwardKL(), 0.5, 2.0)              # tokens 0 to 39, and the others

With weights w that sum to one and qbar = sum w q, a mixture is compared as the objective allows (its `mixes`):

    forward KL   sum w KL(q || p) = KL(qbar || p) + what depends on the teachers alone: linear in q
    reverse KL   sum w KL(p || q) = sum p (log p - sum w log q): linear in log q
    all others   D(qbar, p)

Forward KL being linear in q, what gradient caches keep simply adds up (`added`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from finetune.distillation.loss import Distillation, HardLabels
from finetune.distillation.objectives import Objective, divergence
from finetune.training.loss.chunked import ChunkLogits, precision, softmax_
from finetune.training.loss.workspace import Workspace


def mixed(
    labels: Tensor,
    teachers: Sequence[ChunkLogits],
    weights: Sequence[float],
    objective: Objective,
    alpha: float | Tensor,
    temperature: float,
) -> Distillation | Mixture:
    """The loss against teachers with these weights, which sum to one; a teacher of weight 0 says nothing."""
    heard = [(teacher, share) for teacher, share in zip(teachers, weights, strict=True) if share]
    if len(heard) == 1:
        return Distillation(labels, heard[0][0], objective, alpha, temperature)
    return Mixture(labels, heard, objective, alpha, temperature)


class Mixture(HardLabels):
    """Student against two or more teachers, given with their weights; each costs a product with its head and its own chunk buffer."""

    def __init__(
        self,
        labels: Tensor,
        teachers: Sequence[tuple[ChunkLogits, float]],
        objective: Objective,
        alpha: float | Tensor,
        temperature: float,
    ) -> None:
        super().__init__(labels, alpha, temperature)
        self.teachers, self.objective = teachers, objective
        self.bytes_per_row = sum(teacher.bytes_per_row for teacher, _ in teachers)
        self.mix = {"q": self._linear_in_q, "log q": self._linear_in_log_q}.get(getattr(objective, "mixes", ""), self._of_the_mean)
        self._start = 0

    def load(self, rows: slice, workspace: Workspace) -> None:
        self._start = rows.start
        for teacher, _ in self.teachers:
            teacher.load(rows, workspace)

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        part = slice(rows.start - self._start, rows.stop - self._start)
        blocks = [(teacher.block(part, workspace), weight) for teacher, weight in self.teachers]
        q, ratio, shift, constant = self.mix(logits, blocks, workspace)
        self.before_softmax(logits, rows, workspace)
        log_sum = softmax_(logits)
        shift = shift - log_sum
        self.after_softmax(logits, log_sum)
        value = divergence(self.objective, logits, q, ratio, shift, each=self.each)
        return self.total(logits, value + (constant if self.each else constant.sum()))

    # Each gives q, ratio and shift (without the student's part) as an objective takes them, and what it must add to each token's value.

    def _linear_in_q(
        self, logits: Tensor, blocks: list[tuple[Tensor, float]], workspace: Workspace
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """qbar against a teacher whose log-probabilities are taken for 0; the sum of w sum q log q puts that right."""
        mean, constant = None, logits.new_zeros(len(logits))
        for block, weight in blocks:
            kept = workspace.take("ratio", block.shape, block, block.dtype).copy_(block)
            log_sum = softmax_(block)
            constant += weight * (torch.linalg.vecdot(kept, block) - log_sum.squeeze(-1))
            mean = block.mul_(weight) if mean is None else mean.add_(block, alpha=weight)
        assert mean is not None
        ratio = workspace.take("ratio", logits.shape, logits, logits.dtype).copy_(logits)
        return mean, ratio, logits.new_zeros(len(logits), 1), constant

    def _linear_in_log_q(
        self, logits: Tensor, blocks: list[tuple[Tensor, float]], workspace: Workspace
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The weighted means of logits and of their logsumexp; q is normalised, and `ratio` and `shift` differ from it by a constant."""
        ratio = workspace.take("ratio", logits.shape, logits, logits.dtype).copy_(logits)
        mean, shift = None, logits.new_zeros(len(logits), 1)
        for block, weight in blocks:
            shift += weight * torch.logsumexp(block, -1, keepdim=True)
            mean = block.mul_(weight) if mean is None else mean.add_(block, alpha=weight)
        assert mean is not None
        ratio.sub_(mean)
        softmax_(mean)
        return mean, ratio, shift, logits.new_zeros(len(logits))

    def _of_the_mean(
        self, logits: Tensor, blocks: list[tuple[Tensor, float]], workspace: Workspace
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """qbar and its logarithm, added up as logarithms so that none is lost where all teachers find a token unlikely."""
        mean = None
        for block, weight in blocks:
            block.sub_(torch.logsumexp(block, -1, keepdim=True) - log(weight))
            mean = block if mean is None else torch.logaddexp(mean, block, out=mean)
        assert mean is not None
        ratio = torch.sub(logits, mean, out=workspace.take("ratio", logits.shape, logits, logits.dtype))
        return mean.exp_(), ratio, logits.new_zeros(len(logits), 1), logits.new_zeros(len(logits))


class Routed:
    """ChunkLogits of several teachers, each for its own runs of tokens: run i is that of `runs[i]` and begins at token `starts[i]`."""

    def __init__(self, starts: Sequence[int], runs: Sequence[ChunkLogits]) -> None:
        self.starts, self.runs = starts, runs
        self.bytes_per_row = max(run.bytes_per_row for run in runs)
        self.cuts = list(starts[1:])
        self._now = runs[0]

    def load(self, rows: slice, workspace: Workspace) -> None:
        place = bisect_right(self.starts, rows.start) - 1
        self._now, start = self.runs[place], self.starts[place]
        self._now.load(slice(rows.start - start, rows.stop - start), workspace)

    def block(self, rows: slice, workspace: Workspace) -> Tensor:
        return self._now.block(rows, workspace)


def added(kept: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Centres [n, d] and negentropies [n] of several gradient caches as those of the mixture."""
    if len(kept) == 1:
        return kept[0]
    precise = precision(kept[0][0].dtype)
    centres, negentropies = (
        [tensor.to(precise) * weight for tensor, weight in zip(part, weights, strict=True)] for part in zip(*kept, strict=True)
    )
    return sum(centres[1:], centres[0]), sum(negentropies[1:], negentropies[0])


def joined(kept: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The values of runs of tokens, one after the other."""
    values, negentropies = zip(*kept, strict=True)
    return torch.cat(values), torch.cat(negentropies)
