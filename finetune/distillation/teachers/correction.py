"""Correct a teacher where its first choice is not the label: a share m of its probability goes to the label.

    margin = margins(hidden, teacher_head, labels)      # [n], once for each token of the data
    alpha = corrected(0.2, margin, by=0.2)               # [n], the weight of the label for each token

With q the teacher's distribution at temperature 1, its margin is max q - q[label], and m = (margin + by) / (1 + margin): in
(1 - m) q + m onehot(label) the label is ahead of the teacher's choice by exactly `by` (MFT, arXiv 2506.15702). The forward KL to that is
(1 - m) KL(q) + m CE, up to a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.training.head import Head
from finetune.training.loss.chunked import ChunkLogits, blocks_of, softmax_
from finetune.training.loss.workspace import Workspace

MARGIN_BYTES = 4


@torch.no_grad()
def margins(hidden: Tensor, head: Head, labels: Tensor, workspace: Workspace | None = None) -> Tensor:
    """How far the teacher's first choice is ahead of the label, for its states [n, d]; 0 where the label is its first choice."""
    workspace, logits = workspace or Workspace(), ChunkLogits("teacher", hidden, head, 1.0)
    found = torch.empty(len(hidden), dtype=logits.precise, device=hidden.device)
    for rows, q in blocks_of(logits, workspace):
        softmax_(q)
        found[rows] = q.amax(-1) - q.gather(1, labels[rows, None]).squeeze(1)
    return found


def corrected(alpha: float, margin: Tensor, by: float) -> Tensor:
    """The weight of the label for each token [n]: alpha, and where the teacher is wrong a share of the rest."""
    share = torch.where(margin > 0, (margin + by) / (1 + margin), 0.0)
    return alpha + (1 - alpha) * share
