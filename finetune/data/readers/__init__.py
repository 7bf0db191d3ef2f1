"""File -> records. One small file per kind; each has `read(file, spec, encoding) -> Iterator[Row | SkippedRow]`.

A record that cannot be read is handed on as a `SkippedRow` with its line; a file that cannot be read at all raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from finetune.data.files import DataFile
from finetune.data.rows import Row, SkippedRow
from finetune.errors import BadRow
from finetune.foreign import reading
from finetune.recipe import DatasetSpec


def read_file(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    """The records of one file in their order; `encoding` is None for files that are not text."""
    reader = import_module(f"finetune.data.readers.{file.kind.reader}")
    with reading(file.name, BadRow):
        yield from reader.read(file, spec, encoding)
