"""Parquet and Arrow files, read a thousand rows at a time; fewer where rows are long.

A long text may be stored once for many rows (a dictionary), and a page of zeros in a few bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.class_labels import stored_names, with_names
from finetune.data.endings import PACKED
from finetune.data.files import DataFile
from finetune.data.json_values import without_nulls
from finetune.data.readers.arrow_messages import unpacked_bytes
from finetune.data.rows import Row, SkippedRow, check_column_names
from finetune.errors import BadRow
from finetune.foreign import HELD, PACKED_ROWS, PACKING, UNPACKED, reason
from finetune.formatting import size
from finetune.recipe import DatasetSpec

BATCH = 1000
ROWS, ROWS_PER_BYTE = 100_000, 64
MAGIC = 8  # bytes before the first message of an Arrow file
HINT = "It may be incomplete: copy it again."


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    number = 0
    try:
        for batch in _batches(file):
            rows = max(1, HELD // max(1, batch.nbytes))  # whose texts can be as long as the batch
            names = stored_names(batch.schema.metadata)
            for start in range(0, batch.num_rows, rows):
                for values in _records(batch.slice(start, rows)):
                    number += 1
                    if isinstance(values, str):
                        yield SkippedRow(file.name, number, values)
                    else:
                        yield Row(with_names(values, names), file.name, number)
    except (pa.ArrowException, OSError) as error:
        raise BadRow(f"{file.name} cannot be read as {file.suffix}: {reason(error)}.", hint=HINT) from None


def _batches(file: DataFile) -> Iterator[pa.RecordBatch]:
    whole = file.member is not None or file.path.suffix.lower() in PACKED
    # Arrow is read where it lies; of Parquet nothing would be, and a mapped file that somebody cuts meanwhile kills the process.
    opened = pa.OSFile if file.suffix == ".parquet" else pa.memory_map
    source = pa.BufferReader(_unpacked(file)) if whole else opened(str(file.path))
    most = ROWS + ROWS_PER_BYTE * source.size()
    if file.suffix == ".parquet":
        parquet = pq.ParquetFile(source)
        _check_rows(parquet.metadata.num_rows, most, file)
        check_column_names(parquet.schema_arrow.names, file.name)
        once = [
            column.path
            for column in map(parquet.schema.column, range(len(parquet.schema)))
            if column.physical_type == "BYTE_ARRAY" and column.max_repetition_level == 0
        ]
        parquet = pq.ParquetFile(source, read_dictionary=once, metadata=parquet.metadata)
        yield from parquet.iter_batches(batch_size=_rows_at_a_time(parquet.metadata, file))
        return
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    # A file is a stream with a list of its parts after it, which may name others than the stream has.
    parts = pa.ipc.open_file(source).num_record_batches if is_file else None
    source.seek(MAGIC if is_file else 0)
    if max(map(unpacked_bytes, pa.ipc.MessageReader.open_stream(source)), default=0) > max(UNPACKED, PACKED_ROWS * source.size()):
        raise BadRow(f"{file.name} unpacks to more than {size(UNPACKED)} at a time.", hint="Save it as Parquet, or without compression.")
    source.seek(MAGIC if is_file else 0)
    reader = pa.ipc.open_stream(source)
    check_column_names(reader.schema.names, file.name)
    rows = read = 0
    for part in reader:
        _check(part)
        rows, read = rows + part.num_rows, read + 1
        _check_rows(rows, most, file)
        for start in range(0, part.num_rows, BATCH):
            yield part.slice(start, BATCH)
    if parts not in (None, read):
        raise BadRow(f"{file.name} has {read:,} of its {parts:,} parts.", hint=HINT)


def _rows_at_a_time(metadata: Any, file: DataFile) -> int:
    """Rows that fit into memory together, by the sizes in a Parquet file's footer; raises BadRow for what unpacks to too much at once.

    Of its columns the footer says more, but pyarrow ends the process over damage there.
    """
    longest = 1
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if group.total_byte_size > max(UNPACKED, PACKING * file.path.stat().st_size):
            raise _unpacks_to_too_much(file)
        longest = max(longest, group.total_byte_size // max(1, group.num_rows))
    return min(BATCH, max(1, HELD // longest))


def _unpacks_to_too_much(file: DataFile) -> BadRow:
    return BadRow(f"{file.name} unpacks to more than {size(UNPACKED)}.", hint="Unpack it yourself and give the files.")


def _check(part: pa.RecordBatch) -> None:
    """Raises ArrowInvalid for damaged columns: Arrow believes the offsets of a file, and would read beyond its end.

    Text that is not valid Unicode is left to the row it is in.
    """
    part.validate()
    for column in part.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            bytes_like = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
            if bytes_like is None or "UTF8" not in str(error):
                raise
            column.view(bytes_like).validate(full=True)


def _unpacked(file: DataFile) -> pa.Buffer:
    content = pa.BufferOutputStream()
    for block in file.blocks():
        content.write(block)
        if content.tell() > UNPACKED:
            raise _unpacks_to_too_much(file)
    return content.getvalue()


def _check_rows(rows: int, most: int, file: DataFile) -> None:
    """Rows without content cost no bytes: a small file can claim any number of them."""
    if rows > most:
        raise BadRow(f"{file.name} claims {rows:,} rows, more than its size allows.", hint=HINT)


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Each record, or why it is none. Objects inside have only the fields that are theirs: a table fills up the others with nothing."""
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    for record in _whole_records(batch):
        yield record if isinstance(record, str) or not nested else {**record, **{name: without_nulls(record[name]) for name in nested}}


def _whole_records(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
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
