"""The first pass of a distillation: run the teacher over every row once, with nothing else in memory.

    cache = build_cache("hidden", teacher, rows, folder)
    cache = build_cache("gradient", teacher, rows, folder, student_head=head_of(student), temperature=2.0)

Several processes may share the work: each writes shards of its own (`write_share`), and a shard is the same, whoever writes it. An
interrupted pass continues at the shard where it stopped, with any number of processes. A damaged shard is reported and written again. A
cache for a different teacher, different rows or (kind "gradient") a different student's head or temperature is replaced.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

import safetensors.torch
from torch import Tensor, nn

from finetune import registry
from finetune.data.tokens.labels import learned, unpadded
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.caches.on_disk import (
    INDEX,
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
from finetune.distillation.caches.row_numbers import check_looked_up
from finetune.distillation.caches.teacher_pass import TeacherPass
from finetune.distillation.signals import Signal
from finetune.distillation.teachers.correction import MARGIN_BYTES
from finetune.distillation.terms.internals import Compared, Kept, facts_of
from finetune.errors import TrainingError
from finetune.events import Notice, Progress, Recorder, Reporter
from finetune.hardware.arithmetic import arithmetic, differences
from finetune.system.storage import PART, Lock, NoLock, changed, check_room, file_hash, lock, unwritable_cache
from finetune.training.head import Head, head_of

SHARD_BYTES = 64 * 2**20
NO_ROOM_HINT = "use fewer samples, or cache: none"


class CacheOptions(TypedDict, total=False):
    """Keywords of `build_cache`, each of which may be left out."""

    student_head: Head | None  # kind "gradient" needs it, and the temperature
    temperature: float | None
    vocabulary: int | None  # how many leading ids teacher and student share; else all of the teacher's
    margins: bool  # with those of the teacher over the labels (teachers/correction.py)
    compared: Compared | None  # the internal states that terms compare
    teacher_identity: str | None  # stands for the teacher's exact weights, and for its reading
    reading: Reading | None  # of a teacher with another tokenizer
    shard_bytes: int | None


def cache_key(
    kind: str,
    teacher: str,
    dataset: Any,
    *,
    vocabulary: int,
    student_head: Head | None = None,
    temperature: float | None = None,
    margins: bool = False,
    kept: Kept | None = None,
) -> CacheKey:
    """The key of a cache; `teacher` is `model_identity(model)` or any text that stands for exactly one set of weights."""
    more = registry.load("signals", kind).key(vocabulary, student_head, temperature)
    return CacheKey(kind, teacher, rows_hash(dataset), vocabulary, margins=margins, inside=kept.to_dict() if kept else {}, **more)


def supervised_counts(dataset: Any) -> list[int]:
    """Supervised tokens of each row: labels that are not -100, except the first, which nothing predicts."""
    return [len(learned(row)) for row in dataset]


def build_cache(
    kind: str,
    teacher: nn.Module,
    dataset: Any,
    folder: str | Path,
    *,
    reporter: Reporter | None = None,
    others: Callable[[], None] | None = None,
    **asked: Unpack[CacheOptions],
) -> TeacherCache:
    """Write the missing shards of a cache for `dataset` (input_ids, labels) and open it; more keywords: CacheOptions.

    `others` has other processes call `write_share`; it is called where several shards are missing. Raises DiskFull with the bytes needed
    if the disk has no room, TrainingError if no token is supervised.
    """
    check_looked_up(dataset, "A cache")
    return filled(_ModelCacheWriter(kind, teacher, dataset, **asked), Path(folder), reporter or Recorder(), others)


def filled(writer: CacheWriter, folder: Path, reporter: Reporter, others: Callable[[], None] | None = None) -> TeacherCache:
    """Write what is missing of these answers and open the cache, one process at a time; raises what `build_cache` raises."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _alone_in(folder, reporter)
    except OSError as error:
        raise unwritable_cache(folder.parent, error) from None
    try:
        return _filled(writer, folder, reporter, others)
    finally:
        held.release()


def _alone_in(folder: Path, reporter: Reporter) -> Lock:
    """A lock on the cache: runs with the same teacher and rows share it, and the second finds what the first has written."""
    from filelock import Timeout

    try:
        return lock(folder / ".lock", timeout=0)
    except Timeout:
        reporter.report(Notice(f"Another run is writing the teacher cache in {folder}; this one waits for it."))
        return lock(folder / ".lock")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return NoLock()  # a cache that may only be read can be complete


def _filled(writer: CacheWriter, folder: Path, reporter: Reporter, others: Callable[[], None] | None) -> TeacherCache:
    shards = _trusted(folder, writer, reporter)
    missing = writer.missing(shards)
    head = writer.head if missing else None
    room = sum(map(writer.size, missing)) + (head.weight.nbytes if head else 0)
    check_room("The teacher cache", room, folder, NO_ROOM_HINT)
    if head:
        save_head(head, folder)
    if others is not None and len(missing) > 1:
        writer.index(shards).write(folder)
        others()
        shards = _trusted(folder, writer, reporter)
    writer.write(folder, writer.missing(shards), shards, reporter)
    return TeacherCache.open(folder, writer.key)


def write_share(
    kind: str, teacher: nn.Module, dataset: Any, folder: Path, share: tuple[int, int], *, reporter: Reporter, **more: Unpack[CacheOptions]
) -> None:
    """Write every n-th of the shards that index.json does not name, from the k-th on, where `share` is (k, n).

    Finished ones stand in an index of this process. Raises TrainingError where that folder is for another teacher or other rows.
    """
    writer, index = _ModelCacheWriter(kind, teacher, dataset, **more), read_index(folder)
    if index is None or index.key != writer.key:
        what = f"is for a different {writer.key.differences(index.key)}" if index else "cannot be read"
        raise TrainingError(
            f"The teacher cache in {folder} {what} in process {share[0]}.", hint="All processes need the same files and cache."
        )
    ours, name = writer.missing({_Part.of(shard) for shard in index.shards})[share[0] :: share[1]], f"index-{share[0]}.json"
    before = read_index(folder, name)  # of the same process, where an engine has started it again
    shards = {_Part.of(shard): shard for shard in before.shards if before.key == writer.key} if before else {}
    writer.write(folder, [part for part in ours if part not in shards], shards, reporter, name=name)


@dataclass(frozen=True, order=True)
class _Part:
    """The rows of one shard."""

    first_row: int
    rows: int
    tokens: int

    @classmethod
    def of(cls, shard: Shard) -> _Part:
        return cls(shard.first_row, shard.rows, shard.tokens)

    @property
    def stop(self) -> int:
        return self.first_row + self.rows


class ShardSource(Protocol):
    """What computes the tensors of a shard: a teacher on this machine, or one on a server."""

    def ask(self, rows: list[Any], progress: Callable[[int], None]) -> dict[str, Tensor]:
        """The tensors of one shard, in the order of its rows; `progress` is called now and then with the tokens that are done."""


class CacheWriter:
    """Writes a cache shard by shard, with tensors of `source`; `head` is the one that the cache keeps, if any.

    `counts` are the supervised tokens of each row, `row_bytes` what each takes on disk. Raises TrainingError if no token is supervised.
    """

    head: Head | None = None
    written_with: Mapping[str, Any] = {}  # the arithmetic of the shards

    def __init__(self, dataset: Any, key: CacheKey, counts: list[int], row_bytes: list[int], shard_bytes: int, source: ShardSource) -> None:
        self.dataset, self.key, self.source = dataset, key, source
        self.counts, self.row_bytes, self.shard_bytes = counts, row_bytes, shard_bytes
        if not any(counts):
            raise TrainingError(
                "No token of the data is supervised: there is nothing to learn from the teacher.", hint="Check the labels of the rows."
            )

    def size(self, part: _Part) -> int:
        """The bytes of a shard."""
        return sum(self.row_bytes[part.first_row : part.first_row + part.rows])

    def index(self, shards: Mapping[_Part, Shard]) -> Index:
        """Of these shards."""
        return Index(self.key, len(self.dataset), [shards[part] for part in sorted(shards)], dict(self.written_with))

    def missing(self, shards: Iterable[_Part]) -> list[_Part]:
        """The rows that no shard has, in order, cut where a shard would exceed its bytes."""
        found, start = [], 0
        for first, stop in [*sorted((part.first_row, part.stop) for part in shards), (len(self.dataset), 0)]:
            found += self._cut(start, first)
            start = stop
        return found

    def _cut(self, start: int, stop: int) -> list[_Part]:
        edges, size = [start], 0
        for row in range(start, stop):
            if size and size + self.row_bytes[row] > self.shard_bytes:
                edges.append(row)
                size = 0
            size += self.row_bytes[row]
        edges.append(stop)
        return [_Part(first, last - first, sum(self.counts[first:last])) for first, last in pairwise(edges) if last > first]

    def write(self, folder: Path, parts: list[_Part], shards: dict[_Part, Shard], reporter: Reporter, name: str = INDEX) -> None:
        """Write the shards of these `parts` beside `shards`, after each the index called `name` of all of them."""
        done = sum(part.tokens for part in shards)
        total = done + sum(part.tokens for part in parts)
        for part in parts:
            path = folder / f"shard-{part.first_row:08d}.safetensors"
            rows = [self.dataset[row] for row in range(part.first_row, part.first_row + part.rows)]

            def progress(tokens: int, before: int = done) -> None:
                reporter.report(Progress("teacher cache", before + tokens, total, "tokens"))

            write_file(path, safetensors.torch.save(self.source.ask(rows, progress)))
            shards[part] = Shard(path.name, part.first_row, part.rows, part.tokens, path.stat().st_size, file_hash(path))
            self.index(shards).write(folder, name)
            done += part.tokens
        reporter.report(Progress("teacher cache", done, total, "tokens"))


class _ModelCacheWriter(CacheWriter):
    """The writer for a model on this machine, with CacheOptions as its keywords."""

    def __init__(
        self,
        kind: str,
        teacher: nn.Module,
        dataset: Any,
        *,
        student_head: Head | None = None,
        temperature: float | None = None,
        vocabulary: int | None = None,
        margins: bool = False,
        compared: Compared | None = None,
        teacher_identity: str | None = None,
        reading: Reading | None = None,
        shard_bytes: int | None = None,
    ) -> None:
        head = head_of(teacher).detach()
        if reading is not None:
            head, vocabulary = reading.head(head), reading.vocabulary
        vocabulary = vocabulary or head.vocabulary
        identity = teacher_identity or (reading.identity(model_identity(teacher)) if reading else model_identity(teacher))
        fixed: dict[str, Any] = {"vocabulary": vocabulary, "student_head": student_head, "temperature": temperature, "margins": margins}
        kept = compared.kept(*facts_of(teacher)) if compared else None
        signal: Signal = registry.load("signals", kind)
        each = signal.token_bytes(head, student_head) + (MARGIN_BYTES if margins else 0)
        counts = supervised_counts(dataset)
        row_bytes = [count * each for count in counts]
        if kept:
            rows = map(unpadded, dataset)
            beside = [kept.bytes(count, len(row["input_ids"]), head.weight.dtype) for count, row in zip(counts, rows, strict=True)]
            row_bytes = [one + other for one, other in zip(row_bytes, beside, strict=True)]
        student = None if student_head is None else student_head.first(vocabulary).detach()
        shared = head if reading else head.first(vocabulary)  # one with other tokens is seen by its reading alone
        source = TeacherPass(signal, teacher, shared, student, temperature or 1.0, margins, reading, compared)
        key = cache_key(kind, identity, dataset, **fixed, kept=kept)
        super().__init__(dataset, key, counts, row_bytes, shard_bytes or SHARD_BYTES, source)
        self.head = head if signal.keeps_head else None
        self.written_with = arithmetic(head.weight.device)


def _trusted(folder: Path, writer: CacheWriter, reporter: Reporter) -> dict[_Part, Shard]:
    """Finished shards of an earlier pass with the same key, by one process or several; anything else is reported and removed.

    Shards of a pass with another size of shards are kept, but for one whose rows another has too. Afterwards index.json has what is kept.
    """
    key = writer.key
    index, shares = read_index(folder), sorted(folder.glob(f"{Path(INDEX).stem}-*.json"))
    if index is None or index.key != key:
        if index is not None:
            what = key.differences(index.key)
            reporter.report(Notice(f"The teacher cache in {folder} is for a different {what}; it is rebuilt.", "warning"))
        for file in [*folder.glob("*.safetensors"), *folder.glob(f"*{PART}"), *shares, folder / INDEX]:
            file.unlink(missing_ok=True)
        return {}
    kept, stop = {}, 0
    found = [other for path in shares if (other := read_index(folder, path.name)) and other.key == key]
    there = {shard.file: shard for each in (index, *found) for shard in each.shards}
    for shard in sorted(there.values(), key=lambda shard: shard.first_row):
        if problem := changed(folder / shard.file, shard.bytes, shard.sha256):
            reporter.report(Notice(f"Teacher cache: {folder / shard.file} {problem}; it is rebuilt.", "warning"))
        elif shard.first_row < stop:
            reporter.report(Notice(f"Teacher cache: {folder / shard.file} has rows of another file too; it is left out.", "warning"))
            (folder / shard.file).unlink(missing_ok=True)
        else:
            part = _Part.of(shard)
            kept[part], stop = shard, part.stop
    if kept and index.written_with:
        if said := differences(index.written_with, writer.written_with):
            reporter.report(
                Notice(f"The teacher's outputs in {folder} were written under other conditions ({said}): last digits can differ.")
            )
        writer.written_with = index.written_with
    if shares or len(kept) < len(index.shards):
        writer.index(kept).write(folder)
        for path in shares:
            path.unlink(missing_ok=True)
    return kept
