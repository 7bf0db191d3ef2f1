"""A teacher with another tokenizer: it reads the student's rows in its own tokens, and its distribution is projected onto the student's.

    reading = Reading(Alignment(student_tokenizer, teacher_tokenizer), student_head.vocabulary)
    asked = reading.batch(batch)                # what the teacher reads, and where its states are
    head = reading.head(head_of(teacher))       # a head with the student's vocabulary: q^ = normalise(q M)

M gives each teacher token to the student token that begins it. What begins none is left out, and the rest is scaled to sum to one.
Supervised tokens where the two have not read the same bytes learn from their labels alone: alpha is 1 for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.labels import NO_LOSS
from finetune.distillation.across_tokenizers.alignment import NOWHERE, AlignedRow, Alignment, Share, shorter
from finetune.errors import TrainingError
from finetune.training.batches import in_main_memory, sent
from finetune.training.head import Head
from finetune.training.loss.chunked import ChunkLogits, precision, softmax_
from finetune.training.loss.workspace import Workspace

AVERAGED = "Teachers with other tokenizers cannot be averaged."
OWN_ROWS = "Give each teacher its own rows, or take one of them."
VERSION = 1  # raise it when the same texts would give other numbers, so that caches of earlier ones are not used


@dataclass(frozen=True)
class ProjectedHead(Head):
    """A teacher's head whose logits are log q^ over the student's `size` tokens.

    `target` [teacher's head], in main memory, are those tokens, or -1.
    """

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
        logits = logits.to(precision(logits.dtype))
        flat = logits.flatten(0, -2)
        return project_(flat, *self.places(flat.device), flat.new_empty(len(flat), self.size)).view(*logits.shape[:-1], self.size)

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """There: the student's token of each of the teacher's, 0 where there is none, and the tokens of which there is none."""
        return sent(self.target.clamp(min=0), device), sent((self.target == NOWHERE).nonzero().squeeze(1), device)


class ProjectedLogits(ChunkLogits):
    """The logits of a ProjectedHead, chunk by chunk: log q^ at the temperature."""

    def __init__(self, name: str, hidden: Tensor, head: ProjectedHead, temperature: float) -> None:
        super().__init__(name, hidden, head, temperature)
        self.size, self.places = head.size, head.places(hidden.device)

    def block(self, rows: slice, workspace: Workspace) -> Tensor:
        block = super().block(rows, workspace)
        return project_(block, *self.places, workspace.take(f"{self.name} projected", (len(block), self.size), block, block.dtype))


def teacher_logits(name: str, hidden: Tensor, head: Head, temperature: float) -> ChunkLogits:
    """The logits of a teacher over the student's tokens."""
    kind: Any = ProjectedLogits if isinstance(head, ProjectedHead) else ChunkLogits
    made: ChunkLogits = kind(name, hidden, head, temperature)
    return made


def project_(logits: Tensor, target: Tensor, nowhere: Tensor, found: Tensor) -> Tensor:
    """Fill `found` [k, student's tokens] with log q^ of logits [k, teacher's tokens], which are overwritten; see ProjectedHead.places."""
    logits.index_fill_(1, nowhere, float("-inf"))
    softmax_(logits)
    found.zero_().index_add_(1, target, logits)
    return found.clamp_(min=torch.finfo(found.dtype).tiny).log_()  # 0 log 0 would be no number


@dataclass(frozen=True)
class TeacherBatch:
    """A batch as the teacher reads it: `index` [n] of the supervised tokens in its states, and which of them are `aligned`.

    The latter are in main memory: what is decided by them need not be read from a GPU.
    """

    inputs: dict[str, Tensor]
    index: Tensor
    aligned: Tensor

    @property
    def where(self) -> Tensor:
        """Where the two are compared: `aligned`."""
        return self.aligned


@dataclass(frozen=True)
class Reading:
    """How a teacher with another tokenizer is read by a student with a head of `vocabulary` tokens; it reads at most `limit` of its own."""

    alignment: Alignment
    vocabulary: int
    limit: int | None = None
    _known: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def identity(self, teacher: str) -> str:
        """A teacher's identity with this reading, for the key of a cache."""
        return f"{teacher} projected {VERSION} {self.vocabulary} {self.alignment.fingerprint}"

    def head(self, head: Head) -> Head:
        """The teacher's head over the student's tokens."""
        known = self._target[: head.vocabulary]
        target = torch.nn.functional.pad(known, (0, head.vocabulary - len(known)), value=NOWHERE)
        return ProjectedHead(head.weight, head.bias, head.scale, head.softcap, target=target, size=self.vocabulary)

    @cached_property
    def _target(self) -> Tensor:
        known = torch.from_numpy(self.alignment.target)
        return torch.where(known < self.vocabulary, known, NOWHERE)

    def batch(self, inputs: Mapping[str, Tensor], *, mask: bool = False) -> TeacherBatch:
        """A batch of the student's rows (input_ids, labels) for the teacher; with its attention `mask` where the model needs one.

        Raises TrainingError for a row that is longer than the teacher's context.
        """
        rows, supervised = self.rows(inputs)
        device, batch = inputs["input_ids"].device, self.padded([row.ids for row in rows], inputs, mask=mask)
        width = batch["input_ids"].shape[1]
        flat = [(number, row.places[place]) for number, row in enumerate(rows) for place in supervised[number]]
        index = torch.tensor([number * width + max(place, 0) for number, place in flat], dtype=torch.long)
        return TeacherBatch(batch, sent(index, device), torch.tensor([place != NOWHERE for _, place in flat], dtype=torch.bool))

    def where(self, numbers: Sequence[int], inputs: Mapping[str, Tensor]) -> Tensor:
        """The `where` of a batch alone, for rows that are known by their `numbers`: each is read once, however often it comes."""
        missing = [place for place, number in enumerate(numbers) if number not in self._known]
        if missing:
            some = {name: tensor[missing] for name, tensor in in_main_memory(inputs).items()}
            counts = (some["labels"][:, 1:] != NO_LOSS).sum(1).tolist()
            found = self.batch(some).where.split(counts)
            self._known.update(zip((numbers[place] for place in missing), found, strict=True))
        return self.joined([self._known[number] for number in numbers])

    def joined(self, rows: Sequence[Tensor]) -> Tensor:
        """The `where` of rows, each from a batch of its own or of others, as that of one batch."""
        return torch.cat([*rows])

    def kept_values(self, states: Tensor, asked: TeacherBatch, head: Head, workspace: Workspace | None = None) -> Tensor:
        """What is kept of the teacher's states at the `index` of what it was asked: here the states [n, d] themselves."""
        return states

    def measure(self, rows: Sequence[Any]) -> Share:
        """How much of some rows (input_ids, labels) is compared."""
        return self.alignment.measure(rows)

    def rows(self, inputs: Mapping[str, Tensor]) -> tuple[list[AlignedRow], list[list[int]]]:
        """Each row of a batch in the teacher's tokens, up to its last supervised one, and its positions that predict those."""
        rows, places = [], []
        tokens = in_main_memory(inputs)
        for ids, labels in zip(tokens["input_ids"].tolist(), tokens["labels"].tolist(), strict=True):
            supervised = [place for place, label in enumerate(labels[1:]) if label != NO_LOSS]
            row = self.alignment.row(ids[: supervised[-1] + 2] if supervised else ids[:1])
            if self.limit is not None and len(row.ids) > self.limit:
                raise TrainingError(
                    f"A row has {len(row.ids):,} tokens of the teacher, and its context is {self.limit:,}.", hint=shorter(self.limit)
                )
            rows.append(row)
            places.append(supervised)
        return rows, places

    def padded(self, rows: Sequence[list[int]], inputs: Mapping[str, Tensor], *, mask: bool) -> dict[str, Tensor]:
        """Rows of the teacher's tokens as a batch, on the device of the student's."""
        made = Collator(0, mask=mask)([{"input_ids": ids or [0]} for ids in rows])
        return {name: sent(tensor, inputs["input_ids"].device) for name, tensor in made.items()}
