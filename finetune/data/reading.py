"""From `dataset.source` to rows on disk: every usable record as chat turns in one Arrow file, every other one in the skipped list.

rows = read_rows(recipe.dataset, runtime, reporter)
rows.dataset[0]["messages"]  ->  [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]

The Arrow file is written record by record and memory-mapped afterwards, so memory stays flat however long the data are. It is
kept in the cache under a fingerprint of the content (not of dates or folders) and the names it is reported under, and read again only when
one of them changes. The fingerprint alone says whether two readings gave the same rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data import formats
from finetune.data.builtin import check_builtin, read_builtin, stream_builtin
from finetune.data.encoding import detect
from finetune.data.files import PROSE, SHOWN_FILES, DataFile, find_files, looks_local
from finetune.data.formats.cells import Message
from finetune.data.left_out import LeftOut
from finetune.data.readers import is_text, read_file
from finetune.data.rows import Row, RowProblem, SkippedRow, TooManyBadRows
from finetune.errors import BadRow, DatasetNotFound, EmptyDataset
from finetune.events import Progress, Reporter
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.storage import cache_folder, digest

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch

VERSION = 4  # part of every fingerprint: raise it when the same file would give other rows
READ_ANEW = {".json": "2", ".csv": "2", ".tsv": "2"}  # the same for one kind of file
SAMPLE = 200  # records that are looked at before the format is decided
BATCH = 1000
KEPT_SKIPPED = 1000  # skipped records that are listed one by one; all are counted
POINTER = b"version https://git-lfs.github.com/"


@dataclass
class Origin:
    """An opened source: where it comes from, what identifies its content, and its records."""

    name: str
    fingerprint: Callable[[], list[str]]  # reads all of the content: not called for a preview
    records: Callable[[], Iterator[Row | SkippedRow]]
    pinned: str | None = None
    notes: list[str] = field(default_factory=list)
    limit: int | None = None  # usable rows after which a streamed source is left
    encodings: list[str] = field(default_factory=list)  # of its text files
    prose: bool = False
    files: list[str] = field(default_factory=list)  # local ones, as they are called in reports
    restricted: bool = False  # a data set of the Hub that not everybody can read, as far as could be asked


@dataclass
class RowFacts:
    """What reading found out; kept beside the rows."""

    origin: str
    pinned: str | None
    format: str
    columns: list[str]
    ignored_columns: list[str]
    files: list[str]
    read: int
    usable: int
    blank: int
    skipped: int
    skipped_rows: list[SkippedRow]
    notes: list[str]
    ignored_text: dict[str, float] = field(default_factory=dict)  # what is not learned from, as a share of all text


@dataclass
class Rows:
    """An Arrow stream file with the columns messages (list of role and content), file (index into `facts.files`), line, and two hashes.

    `row_hash` and `prompt_hash` are equal where a whole row, or all before its last answer, is equal but for case and spacing.
    """

    path: Path
    facts: RowFacts
    fingerprint: str
    kept_as: str  # names its folder in the cache: other for the same rows under other file names
    restricted: bool

    def __len__(self) -> int:
        return self.facts.usable

    @property
    def dataset(self) -> Dataset:
        """The rows as a memory-mapped data set."""
        from datasets import Dataset

        return Dataset.from_file(str(self.path))

    def batches(self) -> Iterator[RecordBatch]:
        """The rows in order, read rather than mapped: mapped pages would count as memory of this process."""
        import pyarrow as pa

        with pa.OSFile(str(self.path), "rb") as source, pa.ipc.open_stream(source) as reader:
            yield from reader


def read_rows(spec: DatasetSpec, runtime: RuntimeOptions, reporter: Reporter, *, split: str | None = None) -> Rows:
    """All usable rows of a source, from the cache if its content is known.

    Raises DatasetNotFound, UnknownFormat, EmptyDataset, or BadRow if more records than `bad_rows` allows are unusable.
    """
    origin = open_source(spec, runtime, reporter, split=split)
    chosen = spec.columns.model_dump() if spec.columns else None
    fingerprint = digest([str(VERSION), *origin.fingerprint(), json.dumps(chosen)])
    kept_as = digest([fingerprint, *origin.files, *origin.notes]) if origin.files else fingerprint
    folder = runtime.cache_dir / "datasets" / f"rows-{kept_as}"
    if not folder.is_dir():
        with cache_folder(folder) as unfinished:
            facts = _write_rows(origin, spec, reporter, unfinished)
            (unfinished / "facts.json").write_text(json.dumps(asdict(facts)), encoding="utf-8")
    facts = _load_facts(folder / "facts.json")
    if facts.skipped > spec.bad_rows * facts.read:
        raise too_many_bad_rows(facts.skipped_rows, facts.skipped, facts.read, spec.bad_rows)
    return Rows(folder / "rows.arrow", facts, fingerprint, kept_as, origin.restricted)


def open_source(spec: DatasetSpec, runtime: RuntimeOptions, reporter: Reporter, *, split: str | None = None) -> Origin:
    """The records of a source without a format yet; `split` asks for another split than the recipe's."""
    if split is not None:
        spec = spec.model_copy(update={"split": split})
    if spec.source.startswith("builtin:"):
        if split is not None:
            raise DatasetNotFound(f"{spec.source} has no split {split!r}.", hint="Leave dataset.eval_split out.")
        return _open_builtin(spec, runtime)
    if looks_local(spec.source):
        measured = spec.eval_split if split is None else None
        return _open_files(*find_files(spec.source, spec.data_files, spec.split, strict_split=split is not None, measured=measured), spec)
    from finetune.data.hub_source import open_hub

    return open_hub(spec, runtime, reporter if split is None else None)


def columns_of(records: list[Row]) -> list[str]:
    """All columns in the order in which they first occur."""
    return list(dict.fromkeys(chain.from_iterable(record.values for record in records)))


def no_rows(origin: str, skipped: list[SkippedRow]) -> EmptyDataset | BadRow:
    """The error for a source without a single usable row."""
    if not skipped:
        return EmptyDataset(f"{origin} holds no rows.", hint="Give data with at least two rows.")
    first = skipped[0]
    if len({row.reason for row in skipped}) == 1 and first.reason.endswith(("is missing", "is empty")):
        return EmptyDataset(f"{first.file}: {first.reason} in every row.", hint="Name other columns: --set dataset.columns.prompt=NAME ...")
    return BadRow(
        f"{first.file}: no row can be used; line {first.line} is {first.reason}.", hint="Check that the file is what its name says."
    )


def _open_builtin(spec: DatasetSpec, runtime: RuntimeOptions) -> Origin:
    name = spec.source.removeprefix("builtin:")
    check_builtin(name)

    def records() -> Iterator[Row | SkippedRow]:
        for number, row in enumerate(stream_builtin(name, runtime.cache_dir), start=1):
            yield Row(dict(row), spec.source, number)

    return Origin(
        spec.source, lambda: [digest(chain.from_iterable(row.values() for row in read_builtin(name, runtime.cache_dir)))], records
    )


def _open_files(files: list[DataFile], notes: list[str], spec: DatasetSpec) -> Origin:
    empty = next((file for file in files if file.path.stat().st_size == 0), None)
    if empty is not None:
        raise EmptyDataset(f"{empty.name} is empty.", hint="Give a file with at least two rows.")
    pointer = next((file for file in files if file.path.stat().st_size < 1000 and next(file.blocks(), b"").startswith(POINTER)), None)
    if pointer is not None:
        raise EmptyDataset(f"{pointer.name} is a Git LFS pointer, not the data.", hint="Fetch the data: git lfs pull")
    encodings = {file: detect(file, spec.encoding) if is_text(file) else None for file in files}
    unusual = {file: name for file, name in encodings.items() if name not in (None, "utf-8", "utf-8-sig")}
    notes = [*notes, *(f"{file.name} is read as {name}." for file, name in list(unusual.items())[:SHOWN_FILES])]

    def records() -> Iterator[Row | SkippedRow]:
        for file in files:
            yield from read_file(file, spec, encodings[file])

    def fingerprint() -> list[str]:
        content = [_content_hash(path) for path in dict.fromkeys(file.path for file in files)]
        cut = [str(spec.max_length), spec.text_as] if any(file.suffix in PROSE for file in files) else []  # they decide where prose is cut
        return [
            *content,
            *(f"{file.member}{file.suffix}{READ_ANEW.get(file.suffix, '')}" for file in files),
            *cut,
            str(spec.encoding),
            spec.split,
        ]

    name = ", ".join(file.name for file in files[:SHOWN_FILES]) + (" ..." if len(files) > SHOWN_FILES else "")
    told = list(dict.fromkeys(encoding for encoding in encodings.values() if encoding is not None))
    prose, names = any(file.suffix in PROSE for file in files), [file.name for file in files]
    return Origin(name, fingerprint, records, notes=notes, encodings=told, prose=prose, files=names)


def _content_hash(path: Path) -> str:
    content = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except OSError as error:
        raise BadRow(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from None
    return content.hexdigest()


def _write_rows(origin: Origin, spec: DatasetSpec, reporter: Reporter, folder: Path) -> RowFacts:
    import pyarrow as pa

    records = origin.records()
    head = list(islice(records, SAMPLE))
    sample = [record for record in head if isinstance(record, Row)]
    if not sample:
        raise no_rows(origin.name, [record for record in head if isinstance(record, SkippedRow)])
    columns = columns_of(sample)
    chosen = formats.detect(columns, [record.values for record in sample], spec.columns, origin.name)
    left = LeftOut(chosen, columns)
    notes = [*origin.notes, *filter(None, [getattr(chosen, "note", None)])]
    facts = RowFacts(origin.name, origin.pinned, chosen.name, list(chosen.columns), [], [], 0, 0, 0, 0, [], notes)

    message = pa.struct({"role": pa.string(), "content": pa.string()})
    schema = pa.schema(
        {"messages": pa.list_(message), "file": pa.int32(), "line": pa.int64(), "row_hash": pa.int64(), "prompt_hash": pa.int64()}
    )
    file_numbers: dict[str, int] = {}

    def usable() -> Iterator[tuple[list[Message], int, int, int, int]]:
        for record in chain(head, records):
            facts.read += 1
            if isinstance(record, Row):
                try:
                    messages = chosen.to_messages(record.values)
                    _check_characters(messages)
                except RowProblem as problem:
                    record = SkippedRow(record.file, record.line, str(problem))
            if isinstance(record, SkippedRow):
                facts.skipped += 1
                if len(facts.skipped_rows) < KEPT_SKIPPED:
                    facts.skipped_rows.append(record)
            elif all(not turn["content"].strip() for turn in messages):
                facts.blank += 1
            else:
                facts.usable += 1
                left.look(record.values, messages)
                yield messages, file_numbers.setdefault(record.file, len(file_numbers)), record.line, *_hashes(messages)

    rows = islice(usable(), origin.limit)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while batch := list(islice(rows, BATCH)):
            columns_of_batch = [pa.array(column, type=kind.type) for column, kind in zip(zip(*batch, strict=True), schema, strict=True)]
            writer.write_batch(pa.record_batch(columns_of_batch, schema=schema))
            reporter.report(Progress("data", facts.read, None, "rows"))
    facts.files = list(file_numbers)
    facts.ignored_columns, facts.ignored_text = left.columns, left.shares()
    facts.notes += left.sentences()
    if not facts.usable:
        raise no_rows(origin.name, facts.skipped_rows)
    return facts


def last_answer(messages: Sequence[Message]) -> int:
    """The number of the turn that is asked for in the benchmark."""
    return max(number for number, turn in enumerate(messages) if turn["role"] in ("assistant", "text"))


def _hashes(messages: list[Message]) -> tuple[int, int]:
    """Of the whole row and of its prompt; plain text has no prompt, so its own hash stands for it."""
    answer = last_answer(messages)
    prompt = _normalised(messages[:answer])
    row = _hash(prompt + "\0" + _normalised(messages[answer:]))
    return row, _hash(prompt) if prompt else row


def _normalised(messages: Sequence[Message]) -> str:
    return " ".join(" ".join(turn["content"] for turn in messages).casefold().split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little", signed=True)


def _check_characters(messages: list[Message]) -> None:
    """Half of a surrogate pair is no character: it marks bytes of another encoding, or a broken escape in JSON."""
    for turn in messages:
        content = turn["content"]
        if not content.isascii():
            try:
                content.encode("utf-8")
            except UnicodeEncodeError:
                raise RowProblem("text that is not valid Unicode") from None


def _load_facts(path: Path) -> RowFacts:
    facts = RowFacts(**json.loads(path.read_text(encoding="utf-8")))
    facts.skipped_rows = [SkippedRow(*row) for row in facts.skipped_rows]
    return facts


def too_many_bad_rows(listed: list[SkippedRow], skipped: int, read: int, allowed: float) -> TooManyBadRows:
    """The error for a larger share of unusable rows than `allowed`; names the first of them."""
    first = "; ".join(f"{row.file} line {row.line}: {row.reason}" for row in listed[:3])
    more = f"; and {skipped - 3} more" if skipped > 3 else ""
    enough = min(1.0, math.ceil(100 * skipped / read) / 100)
    return TooManyBadRows(
        f"{skipped} of {read} rows cannot be used ({first}{more}).",
        hint=f"Correct or remove them; up to {100 * allowed:g} % are skipped, or all of these: --set dataset.bad_rows={enough:g}",
        share=enough,
    )
