"""From `dataset.source` to rows on disk: every usable record as chat turns in one Arrow file, every other one in the skipped list.

rows = read_rows(recipe.dataset, runtime, reporter)
rows.dataset[0]["messages"]  ->  [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]

The Arrow file is written record by record and memory-mapped afterwards, so memory use stays constant however large the data are. It is
kept in the cache under a fingerprint of the content (not of dates or folders) and the names it is reported under, and read again only when
one of them changes. The fingerprint alone says whether two readings gave the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.data.arrow_records import schema_of, stored
from finetune.data.builtin import open_builtin
from finetune.data.files import holds_files, looks_local
from finetune.data.formats.cells import Record, is_blank, is_blank_row
from finetune.data.hashes import hashes
from finetune.data.ignored_text import IgnoredText, left_out_sentences
from finetune.data.json_values import without_nulls
from finetune.data.local_source import open_local
from finetune.data.row_reader import RowReader
from finetune.data.rows import (
    KEPT_SKIPPED,
    NotWanted,
    Origin,
    Row,
    RowFacts,
    RowProblem,
    SkippedRow,
    as_many,
    no_rows,
    too_many_bad_rows,
    weight_of,
)
from finetune.errors import BadRow, DatasetError, DatasetNotFound, UnknownFormat
from finetune.events import Progress, Reporter
from finetune.foreign import LONGEST, reading, reason
from finetune.recipe import DatasetSpec
from finetune.recipe.settings import cell_text
from finetune.runtime import RuntimeOptions
from finetune.system.shell import quoted
from finetune.system.storage import cache_folder, digest

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch

VERSION = 16  # part of every fingerprint: raise it when the same file would give other rows
SAMPLE = 200  # records that are read before the format is decided
BATCH = 1000


@dataclass
class Rows:
    """An Arrow stream file with the columns of `finetune.data.arrow_records`, `file` (index into `facts.files`), `line`, and hashes.

    `row_hash` and `prompt_hash` are equal where a row up to its last answer, or all before that answer, is equal but for case and spacing;
    `answer_hashes` and `asked_hashes` say the same of the answers before the last.
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
        """The rows as a memory-mapped dataset."""
        from datasets import Dataset

        with kept(self.path.parent):
            return Dataset.from_file(str(self.path))

    def batches(self) -> Iterator[RecordBatch]:
        """The rows in order, read rather than mapped: mapped pages would count as memory of this process."""
        import pyarrow as pa

        with kept(self.path.parent), pa.OSFile(str(self.path), "rb") as source, pa.ipc.open_stream(source) as reader:
            yield from reader


def read_rows(
    spec: DatasetSpec,
    runtime: RuntimeOptions,
    reporter: Reporter,
    *,
    split: str | None = None,
    origin: Origin | None = None,
    routed_by: str | None = None,
    prompts: bool = False,
) -> Rows:
    """All usable rows of a source, or of one that is opened already, from the cache if its content is known.

    With what the column `routed_by` says beside each. Of `prompts` the answers need not be there. `spec.columns` are those of the source
    that `spec` names, not of one that is opened already.

    Raises DatasetNotFound, UnknownFormat, EmptyDataset, or BadRow if more records than `bad_rows` allows are unusable.
    """
    if origin is None:
        origin = open_source(spec, runtime, reporter, split=split)
    else:
        spec = spec.model_copy(update={"columns": None})
    chosen = spec.columns.model_dump() if spec.columns else None
    fingerprint = digest(
        [str(VERSION), *origin.fingerprint(), json.dumps(chosen), *filter(None, [routed_by, "prompts" if prompts else None])]
    )
    of_packages = {name: code for name in registry.names("formats") if (code := registry.code_of("formats", name))}
    named = [*origin.files, *origin.notes] if origin.files else []
    kept_as = digest([fingerprint, *named, *of_packages.values()]) if named or of_packages else fingerprint
    folder = runtime.cache_dir / "datasets" / f"rows-{kept_as}"
    if not folder.is_dir():
        with cache_folder(folder) as unfinished:
            facts = _write_rows(origin, spec, reporter, unfinished, routed_by, prompts=prompts)
            facts.save(unfinished / "facts.json")
    with kept(folder):
        facts = RowFacts.load(folder / "facts.json")
    if facts.skipped > spec.bad_rows * facts.read:
        raise too_many_bad_rows(facts.skipped_rows, facts.skipped, facts.read, spec.bad_rows, facts.files)
    if facts.format in of_packages:
        fingerprint = digest([fingerprint, of_packages[facts.format]])
    return Rows(folder / "rows.arrow", facts, fingerprint, kept_as, origin.restricted)


def kept(folder: Path) -> AbstractContextManager[None]:
    """Raises BadRow for rows in the cache that are damaged, with what to do about it."""
    return reading(folder, BadRow, hint=f"Delete that folder, and it is made again: {folder}")


def open_source(spec: DatasetSpec, runtime: RuntimeOptions, reporter: Reporter, *, split: str | None = None) -> Origin:
    """The records of a source without a format yet; `split` asks for another split than the recipe's."""
    if split is not None:
        spec = spec.model_copy(update={"split": split})
    if spec.source.startswith("builtin:"):
        if split is not None:
            raise DatasetNotFound(f"{spec.source} has no split {split!r}.", hint="Leave dataset.eval_split out.")
        return open_builtin(spec.source, runtime.cache_dir)
    if looks_local(spec.source):
        return open_local(spec, strict_split=split is not None, measured=spec.eval_split if split is None else None)
    return open_hub(spec, runtime, reporter if split is None else None)


def open_hub(spec: DatasetSpec, runtime: RuntimeOptions, reporter: Reporter | None) -> Origin:
    """The records of a Hub dataset; raises DatasetNotFound or DatasetError."""
    from finetune.hub.datasets import open_dataset

    found = open_dataset(spec, runtime, reporter)

    def records() -> Iterator[Row]:
        for number, values in enumerate(found, start=1):
            own = {name: without_nulls(value) if isinstance(value, list | dict) else value for name, value in values.items()}
            yield Row(own, f"{found.name} {spec.split}", number)

    notes = [f"The first {found.limit:,} usable rows of {found.name} ({spec.split}) are used."] if found.limit else []
    content = [found.name, found.content, str(spec.config), spec.split, str(spec.data_files), str(found.limit)]
    pinned = f"{found.name}@{found.commit}" if found.commit else None
    return Origin(found.name, lambda: content, records, pinned=pinned, notes=notes, limit=found.limit, restricted=found.restricted)


def columns_of(records: list[Row]) -> list[str]:
    """All columns in the order in which they first occur."""
    return list(dict.fromkeys(chain.from_iterable(record.values for record in records)))


def _write_rows(origin: Origin, spec: DatasetSpec, reporter: Reporter, folder: Path, routed_by: str | None, *, prompts: bool) -> RowFacts:
    import pyarrow as pa

    records = origin.records()
    head = as_many(records, SAMPLE, weight_of)
    sample = [record for record in head if isinstance(record, Row)]
    if not sample:
        raise _with_unread(no_rows(origin.name, [record for record in head if isinstance(record, SkippedRow)]), origin, spec)
    columns = columns_of(sample)
    if routed_by is not None and routed_by not in columns:
        raise UnknownFormat(
            f"{origin.name} has no column {routed_by!r} that says whose row it is; it has {', '.join(columns)}.",
            hint="Name another column in the rows of the teachers.",
        )
    try:
        with reading(origin.name, BadRow):
            first = [record.values for record in sample]
            reader = RowReader(columns, first, spec.columns, origin.name, prompts=prompts, chats=not origin.cut)
    except UnknownFormat as error:
        raise _with_unread(error, origin, spec) from None
    left = IgnoredText(reader.format, reader.columns, reader.all_columns)
    facts = RowFacts(origin.name, origin.pinned, reader.format.name, reader.columns, [], [], 0, 0, 0, 0, [], list(origin.notes))
    not_wanted: Counter[str] = Counter()
    schema = schema_of(tokens=hasattr(reader.format, "to_record"), routed=routed_by is not None)
    file_numbers: dict[str, int] = {}

    def usable() -> Iterator[dict[str, Any]]:
        for row in chain(head, records):
            facts.read += 1
            record: Record | None = None
            if isinstance(row, Row):
                values = reader.values(row.values)
                if is_blank_row(values):
                    facts.blank += 1
                    continue
                try:
                    if reader.widen(values):
                        left.read_by(reader.format, reader.columns, reader.all_columns)
                    record = reader.record(values)
                    check_characters(record)
                    left.look(values, record["messages"])
                except NotWanted as problem:
                    not_wanted[str(problem)] += 1
                    continue
                except (RowProblem, RecursionError) as problem:
                    row = SkippedRow(row.file, row.line, reason(problem))
            if record is None or isinstance(row, SkippedRow):
                facts.skipped += 1
                if len(facts.skipped_rows) < KEPT_SKIPPED and isinstance(row, SkippedRow):
                    facts.skipped_rows.append(row)
            elif all(map(is_blank, record["messages"])):
                facts.blank += 1
            else:
                facts.usable += 1
                place: dict[str, Any] = {"file": file_numbers.setdefault(row.file, len(file_numbers)), "line": row.line}
                if routed_by is not None:
                    place["route"] = cell_text(row.values.get(routed_by))
                yield {**stored(record), **place, **hashes(record)}

    rows = islice(usable(), origin.limit)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while batch := as_many(rows, BATCH, weight_of):
            columns_of_batch = [pa.array([row[column.name] for row in batch], type=column.type) for column in schema]
            writer.write_batch(pa.record_batch(columns_of_batch, schema=schema))
            reporter.report(Progress("data", facts.read, None, "rows"))
    facts.files, facts.columns = list(file_numbers), reader.columns
    facts.ignored_columns, facts.ignored_text = left.columns, left.shares()
    facts.left_out = dict(not_wanted)
    facts.notes += [note for note in origin.notes if note not in facts.notes]
    facts.notes += [*reader.notes(), *left_out_sentences(facts.left_out), *left.sentences()]
    if not facts.usable:
        raise reader.no_rows(facts.skipped_rows, facts.left_out)
    return facts


def _with_unread(error: DatasetError, origin: Origin, spec: DatasetSpec) -> DatasetError:
    """The error with the files beside these that were not read: what was meant may be there."""
    unread = [note for note in origin.notes if note.startswith("Not read in")]
    others = f"To read them: --set {quoted('dataset.data_files=*.ENDING')}" if unread and holds_files(spec.source) else ""
    return type(error)(error.message, hint=" ".join(filter(None, [error.hint, *unread, others])))


def check_characters(record: Record) -> None:
    """Raises RowProblem for a text that is too long, or has half of a surrogate pair: bytes of another encoding, or a broken escape."""
    if sum(len(turn["content"]) for turn in record["messages"]) > LONGEST:
        raise RowProblem(f"text of more than {LONGEST:,} characters")
    try:
        for turn in record["messages"]:
            turn["content"].encode("utf-8")
        if "tools" in record or any(len(turn) > 2 for turn in record["messages"]):
            json.dumps([record["messages"], record.get("tools")], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem("text that is not valid Unicode") from None
