"""The first pass of a distillation: run the teacher over every row once, with nothing else in memory.

    cache = build_cache("hidden", teacher, rows, folder)
    cache = build_cache("gradient", teacher, rows, folder, student_head=head_of(student), temperature=2.0)

An interrupted pass continues at the shard where it stopped. A damaged shard is reported and written again. A cache for a different
teacher, different rows or (kind "gradient") a different student's head or temperature is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from finetune import registry
from finetune.data.collator import Collator, labels_of
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.cache import (
    CacheKey,
    Index,
    Shard,
    TeacherCache,
    model_identity,
    read_index,
    rows_hash,
    save_head,
    write_file,
)
from finetune.distillation.corrected import margins as margins_of
from finetune.distillation.signals import Signal
from finetune.errors import TrainingError
from finetune.events import Notice, Progress, Recorder, Reporter
from finetune.storage import PART, changed, check_room, file_hash, unwritable_cache
from finetune.training.chunked_loss import Workspace
from finetune.training.head import Head, head_of, hidden_states, needs_mask
from finetune.training.trainer import Supervised

SHARD_BYTES = 64 * 2**20
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384, "mps": 4096}  # padded tokens of a pass of the teacher
NO_ROOM_HINT = "use fewer samples, or cache: none"


def cache_key(
    kind: str,
    teacher: str,
    dataset: Any,
    *,
    vocabulary: int,
    student_head: Head | None = None,
    temperature: float | None = None,
    margins: bool = False,
) -> CacheKey:
    """The key of a cache; `teacher` is `model_identity(model)` or any text that stands for exactly one set of weights."""
    more = registry.load("signals", kind).key(vocabulary, student_head, temperature)
    return CacheKey(kind, teacher, rows_hash(dataset), vocabulary, margins=margins, **more)


def supervised_counts(dataset: Any) -> list[int]:
    """Supervised tokens of each row: labels that are not -100, except the first, which nothing predicts."""
    return [sum(label != -100 for label in list(labels_of(row))[1:]) for row in dataset]


def build_cache(
    kind: str,
    teacher: nn.Module,
    dataset: Any,
    folder: str | Path,
    *,
    student_head: Head | None = None,
    temperature: float | None = None,
    vocabulary: int | None = None,
    margins: bool = False,
    teacher_identity: str | None = None,
    reading: Reading | None = None,
    reporter: Reporter | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> TeacherCache:
    """Write the missing shards of a cache for `dataset` (input_ids, labels) and open it.

    `vocabulary` is how many leading ids teacher and student share (default: the teacher's); with `margins` the cache has those of the
    teacher over the labels (finetune/distillation/corrected.py). `reading` is that of a teacher with another tokenizer; a
    `teacher_identity` stands for the reading too. Raises DiskFull with the bytes needed if
    the disk has no room, TrainingError if no token is supervised.
    """
    folder, reporter = Path(folder), reporter or Recorder()
    head = head_of(teacher).detach()
    if reading is not None:
        head, vocabulary = reading.head(head), reading.vocabulary
    vocabulary = vocabulary or head.vocabulary
    identity = teacher_identity or (reading.identity(model_identity(teacher)) if reading else model_identity(teacher))
    fixed: dict[str, Any] = {"vocabulary": vocabulary, "student_head": student_head, "temperature": temperature, "margins": margins}
    key = cache_key(kind, identity, dataset, **fixed)
    signal: Signal = registry.load("signals", kind)
    width, dtype = signal.stored(head, student_head)
    plan = _plan(supervised_counts(dataset), width * dtype.itemsize, shard_bytes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable_cache(folder.parent, error) from None
    kept = _trusted(folder, key, reporter)
    missing = [part for part in plan if part not in kept]
    check_room("The teacher cache", sum(part.tokens for part in missing) * width * dtype.itemsize, folder, NO_ROOM_HINT)
    if signal.keeps_head and missing:
        save_head(head, folder)
    student = None if student_head is None else student_head.first(vocabulary).detach()
    shared = head if reading else head.first(vocabulary)  # one with other tokens is seen by its reading alone
    asking = _Pass(signal, teacher, shared, student, temperature or 1.0, margins, reading)
    done, total = sum(part.tokens for part in kept), sum(part.tokens for part in plan)
    shards = dict(kept)
    for part in missing:
        path = folder / f"shard-{part.first_row:08d}.safetensors"
        rows = [dataset[row] for row in range(part.first_row, part.first_row + part.rows)]

        def heard(tokens: int, before: int = done) -> None:
            reporter.report(Progress("teacher cache", before + tokens, total, "tokens"))

        write_file(path, safetensors.torch.save(asking.ask(rows, heard)))
        shards[part] = Shard(path.name, part.first_row, part.rows, part.tokens, path.stat().st_size, file_hash(path))
        Index(key, len(dataset), [shards[known] for known in sorted(shards)]).write(folder)
        done += part.tokens
    reporter.report(Progress("teacher cache", done, total, "tokens"))
    return TeacherCache.open(folder, key)


@dataclass(frozen=True, order=True)
class _Part:
    """The rows of one shard."""

    first_row: int
    rows: int
    tokens: int


def _plan(counts: list[int], token_bytes: int, shard_bytes: int) -> list[_Part]:
    """Rows in order, cut where a shard would exceed `shard_bytes`."""
    if not any(counts):
        raise TrainingError(
            "No token of the data is supervised: there is nothing to learn from the teacher.", hint="Check the labels of the rows."
        )
    most = max(1, shard_bytes // token_bytes)
    edges, tokens = [0], 0
    for row, count in enumerate(counts):
        if tokens and tokens + count > most:
            edges.append(row)
            tokens = 0
        tokens += count
    edges.append(len(counts))
    return [_Part(start, stop - start, sum(counts[start:stop])) for start, stop in pairwise(edges)]


def _trusted(folder: Path, key: CacheKey, reporter: Reporter) -> dict[_Part, Shard]:
    """Finished shards of an earlier pass with the same key; anything else is reported and removed."""
    index = read_index(folder)
    if index is None or index.key != key:
        if index is not None:
            what = key.differences(index.key)
            reporter.report(Notice(f"The teacher cache in {folder} is for a different {what}; it is rebuilt.", "warning"))
        for file in [*folder.glob("*.safetensors"), *folder.glob(f"*{PART}"), folder / "index.json"]:
            file.unlink(missing_ok=True)
        return {}
    kept = {}
    for shard in index.shards:
        if problem := changed(folder / shard.file, shard.bytes, shard.sha256):
            reporter.report(Notice(f"Teacher cache: {folder / shard.file} {problem}; it is rebuilt.", "warning"))
        else:
            kept[_Part(shard.first_row, shard.rows, shard.tokens)] = shard
    return kept


class _Pass:
    """Runs the teacher over rows, in batches of similar length."""

    def __init__(
        self,
        signal: Signal,
        teacher: nn.Module,
        head: Head,
        student: Head | None,
        temperature: float,
        margins: bool,
        reading: Reading | None,
    ) -> None:
        self.margins, self.names = margins, (*signal.names, *(["margins"] if margins else []))
        self.signal, self.teacher, self.head, self.student, self.temperature = signal, teacher.eval(), head, student, temperature
        self.reading = reading
        self.collator = Collator(0, mask=needs_mask(teacher))
        self.workspace = Workspace()

    @torch.no_grad()
    def ask(self, rows: list[Any], heard: Callable[[int], None]) -> dict[str, Tensor]:
        """The tensors of one shard, in the order of its rows; `heard` is told how many tokens are done, before each batch."""
        done = 0
        answers: list[list[Tensor]] = [[] for _ in rows]
        device = self.head.weight.device
        for numbers in _batches([len(row["input_ids"]) for row in rows], BATCH_TOKENS[device.type]):
            heard(done)
            batch = {name: tensor.to(device) for name, tensor in self.collator([rows[n] for n in numbers]).items()}
            if self.reading is None:
                asked, index = batch, Supervised.of(batch["labels"]).index
            else:
                read = self.reading.batch(batch, mask="attention_mask" in batch)
                asked, index = read.inputs, read.index
            hidden = hidden_states(self.teacher, asked["input_ids"], asked.get("attention_mask")).flatten(0, 1)[index]
            if self.reading is not None:
                hidden = self.reading.said(hidden, read, self.head, self.workspace)
            counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
            wanted = self.signal.ask(hidden, self.head, self.student, self.temperature, self.workspace)
            if self.margins:
                wanted = (*wanted, margins_of(hidden, self.head, Supervised.of(batch["labels"]).labels, self.workspace))
            for number, *pieces in zip(numbers, *(tensor.cpu().split(counts) for tensor in wanted), strict=True):
                answers[number] = list(pieces)
            done += sum(counts)
        shard = {name: torch.cat([answer[place] for answer in answers]) for place, name in enumerate(self.names)}
        return {"rows": torch.tensor([len(answer[0]) for answer in answers]), **shard}


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
