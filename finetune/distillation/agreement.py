"""How close a student is to its teacher on held-out rows, without the logits of a row ever being in memory.

measured = agreement(student, teacher, rows)
measured.kl, measured.top1          # nats per token; share of tokens where both find the same token most likely
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.training.chunked_loss import CHUNK_BYTES, ChunkLogits, Workspace, chunks, softmax_
from finetune.training.head import causal_lm, head_of, hidden_states
from finetune.training.trainer import Supervised


@dataclass(frozen=True)
class RowAgreement:
    """Sums over the supervised tokens of one row: KL(teacher || student) at temperature 1, equal most likely tokens, label losses."""

    tokens: int
    kl: float
    same_top: int
    student_nll: float
    teacher_nll: float


@dataclass(frozen=True)
class Agreement:
    rows: list[RowAgreement]

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def kl(self) -> float:
        """Mean KL(teacher || student) per token, in nats."""
        return sum(row.kl for row in self.rows) / self.tokens

    @property
    def top1(self) -> float:
        """Share of tokens where both models find the same token most likely."""
        return sum(row.same_top for row in self.rows) / self.tokens

    @property
    def student_nll(self) -> float:
        return sum(row.student_nll for row in self.rows) / self.tokens

    @property
    def teacher_nll(self) -> float:
        return sum(row.teacher_nll for row in self.rows) / self.tokens


@torch.no_grad()
def agreement(student: nn.Module, teacher: nn.Module, rows: Iterable[Mapping[str, Any]], *, vocabulary: int | None = None) -> Agreement:
    """Compare two models in eval mode on the supervised tokens of `rows` (input_ids, labels), row by row.

    `vocabulary` is how many leading ids they share (default: the smaller head). Rows without a supervised token are left out.
    """
    ours, theirs = head_of(student), head_of(teacher)
    shared = vocabulary or min(ours.vocabulary, theirs.vocabulary)
    workspace = Workspace()
    measured = []
    for row in rows:
        supervised = Supervised.of(torch.tensor([list(row["labels"])]))
        if not len(supervised.labels):
            continue
        p = ChunkLogits("student", _states(student, row, supervised), ours.first(shared), 1.0)
        q = ChunkLogits("teacher", _states(teacher, row, supervised), theirs.first(shared), 1.0)
        measured.append(_compare(p, q, supervised.labels, workspace))
    return Agreement(measured)


def _states(model: nn.Module, row: Mapping[str, Any], supervised: Supervised) -> Tensor:
    device = causal_lm(model).get_input_embeddings().weight.device
    states = hidden_states(model, torch.tensor([list(row["input_ids"])], device=device))[0]
    return states[supervised.index.to(device)]


def _compare(student: ChunkLogits, teacher: ChunkLogits, labels: Tensor, workspace: Workspace) -> RowAgreement:
    sums = torch.zeros(4, dtype=torch.float64)
    for rows in chunks(len(labels), student.bytes_per_row + teacher.bytes_per_row, CHUNK_BYTES):
        student.load(rows, workspace)
        teacher.load(rows, workspace)
        everything = slice(0, rows.stop - rows.start)
        p, q = student.block(everything, workspace), teacher.block(everything, workspace).to(student.hidden.device)
        label = labels[rows, None].to(p.device)
        same = (p.argmax(-1) == q.argmax(-1)).sum()
        ratio = p - q
        student_picked, teacher_picked = p.gather(1, label), q.gather(1, label)
        student_sum, teacher_sum = softmax_(p), softmax_(q)
        divergence = (teacher_sum.neg() + student_sum).sum() - ratio.mul_(q).sum()
        parts = (divergence, same, (student_sum - student_picked).sum(), (teacher_sum - teacher_picked).sum())
        sums += torch.stack([part.to(torch.float32) for part in parts]).double().cpu()
    kl, same_top, student_nll, teacher_nll = sums.tolist()
    return RowAgreement(len(labels), kl, int(same_top), student_nll, teacher_nll)
