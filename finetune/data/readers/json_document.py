"""One JSON document: a list of records, {"data": [records]}, splits, a table by columns or by index, or a single record.

[{"question": "2 + 2?", "answer": "4"}, ...]
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from finetune.data.files import SPLITS, DataFile
from finetune.data.readers.json_lines import parse_lines, reason_of
from finetune.data.rows import Row, SkippedRow
from finetune.errors import BadRow
from finetune.recipe import DatasetSpec

DECODER = json.JSONDecoder(parse_float=str, parse_int=str)
BETWEEN = " \t\r\n"


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    text = b"".join(file.blocks()).decode(encoding or "utf-8", errors="surrogateescape")
    if text.lstrip(BETWEEN).startswith("["):
        for item, line in _items(text, file.name):
            yield _as_row(item, file.name, line)
        return
    try:
        document = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        if not _is_json(text.strip().partition("\n")[0]):
            raise _broken(error, text, file.name) from None
        yield from parse_lines(file.name, io.StringIO(text, newline="\n"))  # JSON lines under the name .json
        return
    for number, item in enumerate(_records(document, spec.split, file.name), start=1):
        yield _as_row(item, file.name, number)


def _items(text: str, name: str) -> Iterator[tuple[Any, int]]:
    """The items of a list one by one, with the line each begins on; only one of them is decoded at a time."""
    position, line, counted = text.index("[") + 1, 1, 0
    separator = ""
    while True:
        position = _after_blanks(text, position)
        following = text[position : position + 1]
        if following == "]" and separator != ",":
            return
        if separator == "" or following not in ("", "]", ","):
            line, counted = line + text.count("\n", counted, position), position
            try:
                item, position = DECODER.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                raise _broken(error, text, name) from None
            # a bare number was decoded as its spelling, which is not to be taken for text
            yield (item if following == '"' or not isinstance(item, str) else None), line
        position = _after_blanks(text, position)
        separator = text[position : position + 1]
        if separator == "]":
            return
        if separator != ",":
            raise _broken(json.JSONDecodeError("a comma or ] is missing", text, position), text, name)
        position += 1


def _after_blanks(text: str, position: int) -> int:
    while text[position : position + 1] in ("\n", " ", "\r", "\t"):
        position += 1
    return position


def _records(document: Any, split: str, name: str) -> list[Any]:
    """The records inside one JSON object."""
    values = list(document.values()) if isinstance(document, dict) else []
    record_lists = {key: value for key, value in document.items() if _is_record_list(value)} if values else {}
    wanted = next((record_lists[word] for word in (split, *SPLITS.get(split, ())) if word in record_lists), None)
    if wanted is not None:
        return list(wanted)
    if len(record_lists) == 1 and not any(isinstance(value, list) for key, value in document.items() if key not in record_lists):
        return list(next(iter(record_lists.values())))
    if values and all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) > 1:
            lengths = ", ".join(f"{key}: {len(value)}" for key, value in list(document.items())[:6])
            raise BadRow(f"{name}: its columns have different lengths ({lengths}).", hint="Every column needs one value a row.")
        return [dict(zip(document, cells, strict=True)) for cells in zip(*values, strict=True)]
    if values and all(isinstance(value, dict) for value in values):
        if all(key.isdigit() for key in document):  # {"0": {"question": ...}, "1": ...}
            return values
        if len({tuple(value) for value in values}) == 1:  # {"question": {"0": ...}, "answer": {"0": ...}}
            return [{key: document[key][index] for key in document} for index in values[0]]
    return [document]


def _is_record_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _as_row(item: Any, name: str, line: int) -> Row | SkippedRow:
    if isinstance(item, dict):
        return Row(item, name, line)
    if isinstance(item, str):
        return Row({"text": item}, name, line)
    if _is_record_list(item):
        return Row({"messages": item}, name, line)
    return SkippedRow(name, line, "a JSON value that is not an object")


def _is_json(line: str) -> bool:
    try:
        return isinstance(DECODER.decode(line), dict)
    except (ValueError, RecursionError):
        return False


def _broken(error: Exception, text: str, name: str) -> BadRow:
    line = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else 1
    what = reason_of(error) if isinstance(error, ValueError) else "nested too deeply"
    return BadRow(
        f"{name}, line {line}: this is not valid JSON ({what}).", hint="Correct this place, or write one JSON object a line (.jsonl)."
    )
