"""A teacher with another tokenizer: it reads the student's rows in its own tokens, and its distribution is seen as one over the student's.

    reading = Reading(Alignment(student_tokenizer, teacher_tokenizer), student_head.vocabulary)
    asked = reading.batch(batch)                # what the teacher reads, and where its states are
    head = reading.head(head_of(teacher))       # a head with the student's vocabulary: q^ = normalise(q M)

M gives each teacher token to the student token that begins it. What begins none is left out, and the rest is scaled to sum to one.
Supervised tokens where the two have not read the same bytes learn from their labels alone: alpha is 1 for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from finetune.data.collator import NO_LOSS, Collator
from finetune.distillation.across_tokenizers.alignment import NOWHERE, Alignment
from finetune.training.chunked_loss import ChunkLogits, Workspace, softmax_
from finetune.training.head import Head

VERSION = 1  # raise it when the same texts would give other numbers, so that caches of earlier ones are not used


@dataclass(frozen=True)
class ProjectedHead(Head):
    """A teacher's head whose logits are log q^ over the student's `size` tokens; `target` [teacher's head] are those tokens, or -1."""

    target: Tensor = field(kw_only=True)
    size: int = field(kw_only=True)

    @property
    def vocabulary(self) -> int:
        return self.size

    def first(self, vocabulary: int) -> Head:
        """Over fewer of the student's tokens: what begins with another is left out."""
        target = torch.where(self.target < vocabulary, self.target, NOWHERE)
        return replace(self, target=target, size=min(vocabulary, self.size))

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        logits = logits.double() if logits.dtype == torch.float64 else logits.float()
        flat = logits.flatten(0, -2)
        return project_(flat, self.target, flat.new_empty(len(flat), self.size)).unflatten(0, logits.shape[:-1])


class ProjectedLogits(ChunkLogits):
    """The logits of a ProjectedHead, chunk by chunk: log q^ at the temperature."""

    def __init__(self, name: str, hidden: Tensor, head: ProjectedHead, temperature: float) -> None:
        super().__init__(name, hidden, head, temperature)
        self.size, self.target = head.size, head.target.to(hidden.device)

    def block(self, rows: slice, workspace: Workspace) -> Tensor:
        block = super().block(rows, workspace)
        return project_(block, self.target, workspace.take(f"{self.name} projected", (len(block), self.size), block, block.dtype))


def teacher_logits(name: str, hidden: Tensor, head: Head, temperature: float) -> ChunkLogits:
    """The logits of a teacher over the student's tokens."""
    kind: Any = ProjectedLogits if isinstance(head, ProjectedHead) else ChunkLogits
    made: ChunkLogits = kind(name, hidden, head, temperature)
    return made


def project_(logits: Tensor, target: Tensor, found: Tensor) -> Tensor:
    """Fill `found` [k, student's tokens] with log q^ of logits [k, teacher's tokens], which are overwritten."""
    logits.index_fill_(1, (target == NOWHERE).nonzero().squeeze(1), float("-inf"))
    softmax_(logits)
    found.zero_().index_add_(1, target.clamp(min=0), logits)
    return found.clamp_(min=torch.finfo(found.dtype).tiny).log_()  # 0 log 0 would be no number


@dataclass(frozen=True)
class Asked:
    """A batch as the teacher reads it: `index` [n] of the supervised tokens in its states, and which of them are `aligned`."""

    inputs: dict[str, Tensor]
    index: Tensor
    aligned: Tensor


@dataclass(frozen=True)
class Reading:
    """How a teacher with another tokenizer is read by a student with a head of `vocabulary` tokens."""

    alignment: Alignment
    vocabulary: int

    def identity(self, teacher: str) -> str:
        """A teacher's identity with this reading, for the key of a cache."""
        return f"{teacher} projected {VERSION} {self.vocabulary} {self.alignment.fingerprint}"

    def head(self, head: Head) -> ProjectedHead:
        """The teacher's head over the student's tokens."""
        target = torch.full((head.vocabulary,), NOWHERE, dtype=torch.long)
        known = torch.from_numpy(self.alignment.target[: head.vocabulary])
        target[: len(known)] = torch.where(known < self.vocabulary, known, NOWHERE)
        target = target.to(head.weight.device)
        return ProjectedHead(head.weight, head.bias, head.scale, head.softcap, target=target, size=self.vocabulary)

    def batch(self, inputs: Mapping[str, Tensor], *, mask: bool = False) -> Asked:
        """A batch of the student's rows (input_ids, labels) for the teacher; with its attention `mask` where the model needs one."""
        rows, places = [], []
        for ids, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True):
            supervised = [place for place, label in enumerate(labels[1:]) if label != NO_LOSS]
            row = self.alignment.row(ids[: supervised[-1] + 2] if supervised else ids[:1])
            rows.append({"input_ids": row.ids or [0]})
            places.append([row.places[place] for place in supervised])
        device = inputs["input_ids"].device
        batch = {name: tensor.to(device) for name, tensor in Collator(0, mask=mask)(rows).items()}
        width = batch["input_ids"].shape[1]
        flat = [(number, place) for number, row_places in enumerate(places) for place in row_places]
        index = torch.tensor([number * width + max(place, 0) for number, place in flat], dtype=torch.long, device=device)
        return Asked(batch, index, torch.tensor([place != NOWHERE for _, place in flat], dtype=torch.bool, device=device))
