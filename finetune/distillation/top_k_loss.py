"""The loss for a teacher that returns only its k likeliest tokens: each is a class, and all other tokens together are one more.

    rule = TopKLoss(labels, values, ids, ForwardKL(), alpha=0.5, temperature=2.0)       # values [n, k + 1], ids [n, k]
    chunked_loss(hidden, head, rule)

    L = alpha * CE(student, label) + (1 - alpha) * T^2 * D(teacher, student)      summed over the supervised tokens

D compares distributions over the k + 1 classes, Q and P: P has the student's probabilities of the teacher's k tokens and the sum of all its
others. Both are tempered as they are, Q^(1/T) and P^(1/T), each scaled to sum to one: with k of the whole vocabulary that is what T always
means. With fewer it is another quantity, since the rest is tempered as one token. Approximate either way: the teacher's
probabilities of the other tokens are not known one by one.

The gradient is exact. With g = dD / d(log P / T), whose classes sum to zero, that by the logit of one of the k tokens is its g / T, and by
that of any other token its share r of the rest times the g of the rest / T. So one softmax over the rest is all that is done per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.distillation.objectives import APPROXIMATE, Objective, divergence
from finetune.training.loss.chunked import Rule, softmax_
from finetune.training.loss.workspace import Workspace

LEAST = 1e-6  # of the rest: log-probabilities in 32 bits cannot tell less


class TopKLoss(Rule):
    """`values` [n, k + 1] are the teacher's log-probabilities of the tokens `ids` [n, k], and of all others together.

    `sums` are unweighted: the divergence, and `ce` if alpha > 0.
    """

    def __init__(self, labels: Tensor, values: Tensor, ids: Tensor, objective: Objective, alpha: float, temperature: float) -> None:
        super().__init__(labels)
        self.values, self.ids, self.objective, self.alpha, self.heat = values, ids, objective, alpha, temperature

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        ids, label = self.ids[rows].long(), self.labels[rows, None]
        named, labelled = logits.gather(1, ids), logits.gather(1, label)
        all_named = ids.shape[1] == logits.shape[1]
        if all_named:  # there is no rest
            classes = named
            logits.zero_()
        else:
            logits.scatter_(1, ids, -torch.inf)
            classes = torch.cat([named, softmax_(logits)], 1)
        log_sum = classes.logsumexp(-1, keepdim=True)
        log_p = classes - log_sum
        share = log_p.exp()
        told = self.values[rows].to(log_p)[:, : log_p.shape[1]]
        ours, theirs = ((log / self.heat).log_softmax(-1) for log in (log_p, told))
        p = ours.exp()
        value = divergence(self.objective, p, theirs.exp(), ours - theirs, p.new_zeros(len(p), 1), each=False)
        self.add(APPROXIMATE, value)
        slope = p.mul_((1 - self.alpha) * self.heat)
        loss = (1 - self.alpha) * self.heat**2 * value
        if self.alpha:
            slope.add_(share, alpha=self.alpha)
            cross_entropy = (log_sum - labelled).sum()
            self.add("ce", cross_entropy)
            loss = loss + self.alpha * cross_entropy
        if not all_named:
            logits.mul_(slope[:, -1:])
        logits.scatter_(1, ids, slope[:, : ids.shape[1]])
        if self.alpha:
            logits.scatter_add_(1, label, logits.new_full((1, 1), -self.alpha).expand_as(label))
        return loss


def with_rest(values: Tensor) -> Tensor:
    """Log-probabilities [n, k] of some tokens, and after them [n, k + 1] that of all others together."""
    known = values.double().exp().sum(-1, keepdim=True)
    return torch.cat([values, (1 - known).clamp(min=LEAST).log().to(values.dtype)], 1)
