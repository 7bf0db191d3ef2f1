"""Parquet and Arrow files, read a thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.endings import PACKED
from finetune.data.files import DataFile
from finetune.data.rows import Row, SkippedRow, check_column_names
from finetune.errors import BadRow
from finetune.recipe import DatasetSpec

BATCH = 1000


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    number = 0
    try:
        for batch in _batches(file):
            for values in _records(batch):
                number += 1
                yield SkippedRow(file.name, number, values) if isinstance(values, str) else Row(values, file.name, number)
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise BadRow(f"{file.name} cannot be read as {file.suffix}: {first_line}", hint="It may be incomplete: copy it again.") from None


def _batches(file: DataFile) -> Iterator[pa.RecordBatch]:
    whole = file.member is not None or file.path.suffix.lower() in PACKED
    source = pa.BufferReader(b"".join(file.blocks())) if whole else pa.memory_map(str(file.path))
    if file.suffix == ".parquet":
        parquet = pq.ParquetFile(source)
        check_column_names(parquet.schema_arrow.names, file.name)
        yield from parquet.iter_batches(batch_size=BATCH)
        return
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
    check_column_names(reader.schema.names, file.name)
    parts = (reader.get_batch(index) for index in range(reader.num_record_batches)) if is_file else reader
    for part in parts:
        for start in range(0, part.num_rows, BATCH):
            yield part.slice(start, BATCH)


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Each record, or why it is none."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "text that is not valid Unicode"
            except (ValueError, OverflowError):
                yield "a date out of range"
