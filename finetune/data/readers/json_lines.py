"""One JSON object a line; a file that is one big JSON list in spite of its name is read as such.

{"question": "2 + 2?", "answer": "4"}
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from finetune.data.encoding import UNREADABLE
from finetune.data.files import DataFile
from finetune.data.rows import Row, SkippedRow
from finetune.recipe import DatasetSpec

SHOWN_ERROR = 80


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    with file.open() as raw:
        # newline="\n": other line ends are legal inside JSON text written by careless tools
        lines = io.TextIOWrapper(raw, encoding=encoding, errors=UNREADABLE, newline="\n")
        first = lines.readline()
        if first.lstrip().startswith("["):
            from finetune.data.readers import json_document

            yield from json_document.read(file, spec, encoding)
            return
        yield from parse_lines(file.name, _with_first(first, lines))


def parse_lines(name: str, lines: Iterator[str]) -> Iterator[Row | SkippedRow]:
    """Numbers keep the spelling of the file (1.50 stays 1.50): they become text anyway; a bare tab or NUL in a string stays one."""
    decode = json.JSONDecoder(parse_float=str, parse_int=str, strict=False).decode
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = decode(line)
        except ValueError as error:
            yield SkippedRow(name, number, f"not JSON: {reason_of(error)}")
            continue
        except RecursionError:
            yield SkippedRow(name, number, "JSON that is nested too deeply")
            continue
        if isinstance(values, dict):
            yield Row(values, name, number)
        else:
            yield SkippedRow(name, number, "a JSON value that is not an object")


def _with_first(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def reason_of(error: ValueError) -> str:
    """What is wrong with a piece of JSON, in few words."""
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)[:SHOWN_ERROR]
