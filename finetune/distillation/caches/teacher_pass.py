"""Run a teacher over the rows of one shard of its cache, in batches of similar length, and collect what the cache keeps.

shard = TeacherPass(signal, teacher, head, student_head, temperature=2.0, margins=False).ask(rows, progress)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.labels import NO_LOSS, unpadded
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.signals import Signal
from finetune.distillation.teachers.correction import margins as margins_of
from finetune.distillation.terms.internals import Compared, narrow, terms_of, watching
from finetune.training.batches import Supervised
from finetune.training.head import Head, hidden_states, needs_mask
from finetune.training.loss.workspace import Workspace

BATCH_TOKENS = 4096  # padded tokens of a pass of the teacher
GPU_BATCH_TOKENS = 16384


class TeacherPass:
    """Both heads are cut to the vocabulary that the models share; `reading` is that of a teacher with another tokenizer."""

    def __init__(
        self,
        signal: Signal,
        teacher: nn.Module,
        head: Head,
        student: Head | None,
        temperature: float,
        margins: bool,
        reading: Reading | None = None,
        compared: Compared | None = None,
    ) -> None:
        self.signal, self.teacher, self.head, self.student, self.temperature = signal, teacher.eval(), head, student, temperature
        self.margins, self.reading = margins, reading
        self.inside = compared.names() if compared else []
        self.names = (*signal.names, *(["margins"] if margins else []), *self.inside)
        self.watched = compared.watched(teacher) if compared else {}
        self.at_places = {name for name, term in terms_of(compared.spec).items() if term.every_place} if compared else set()
        self.collator = Collator(0, mask=needs_mask(teacher))
        self.workspace = Workspace()

    @torch.no_grad()
    def ask(self, rows: list[Any], progress: Callable[[int], None]) -> dict[str, Tensor]:
        """The tensors of one shard, in the order of its rows; `progress` is called with the tokens that are done, before each batch."""
        done, rows = 0, [unpadded(row) for row in rows]
        answers: list[list[Tensor]] = [[] for _ in rows]
        device, lengths = self.head.weight.device, [len(row["input_ids"]) for row in rows]
        for numbers in _batches(lengths, GPU_BATCH_TOKENS if device.type == "cuda" else BATCH_TOKENS):
            progress(done)
            batch = {name: tensor.to(device) for name, tensor in self.collator([rows[n] for n in numbers]).items()}
            if self.reading is None:
                asked, index = batch, Supervised.of(batch["labels"]).index
            else:
                read = self.reading.batch(batch, mask="attention_mask" in batch)
                asked, index = read.inputs, read.index
            with watching(self.watched) as seen:
                positions = asked.get("position_ids")
                hidden = hidden_states(self.teacher, asked["input_ids"], asked.get("attention_mask"), positions).flatten(0, 1)[index]
            if self.reading is not None:
                hidden = self.reading.kept_values(hidden, read, self.head, self.workspace)
            counts = (batch["labels"][:, 1:] != NO_LOSS).sum(1).tolist()
            wanted = self.signal.ask(hidden, self.head, self.student, self.temperature, self.workspace)
            if self.margins:
                wanted = (*wanted, margins_of(hidden, self.head, Supervised.of(batch["labels"]).labels, self.workspace))
            pieces = [tensor.cpu().split(counts) for tensor in wanted]
            for name, outputs in seen.items():
                for output in outputs:
                    if name in self.at_places:
                        pieces.append(tuple(row[: lengths[number]] for number, row in zip(numbers, output.cpu(), strict=True)))
                    else:
                        pieces.append(output.flatten(0, 1)[index].cpu().split(counts))
            for number, *each in zip(numbers, *pieces, strict=True):
                answers[number] = each
            done += sum(counts)
        shard = {name: torch.cat([answer[place] for answer in answers]) for place, name in enumerate(self.names)}
        shard |= {name: narrow(shard[name]) for name in self.inside}
        more = {"lengths": torch.tensor(lengths)} if self.at_places else {}
        return {"rows": torch.tensor([len(answer[0]) for answer in answers]), **shard, **more}


def _batches(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length and at most `most` padded tokens (at least one row)."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
