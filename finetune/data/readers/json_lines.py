"""One JSON object per line, as `parse_lines` takes them from any text.

{"question": "2 + 2?", "answer": "4"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from finetune.data.json_values import DECODER
from finetune.data.rows import Row, SkippedRow
from finetune.foreign import VALUES, has_many_values

SHOWN_ERROR = 80


def parse_lines(name: str, lines: Iterator[str], first: int = 1) -> Iterator[Row | SkippedRow]:
    """The objects of the lines, which count from `first`; a line without one is skipped with the reason."""
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        if has_many_values(line, VALUES):
            yield SkippedRow(name, number, f"more than {VALUES:,} values")
            continue
        try:
            values = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            yield SkippedRow(name, number, f"not JSON: {reason_of(error)}")
            continue
        if isinstance(values, dict):
            yield Row(values, name, number)
        else:
            yield SkippedRow(name, number, "a JSON value that is not an object")


def reason_of(error: ValueError | RecursionError) -> str:
    """What is wrong with a piece of JSON, in few words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"  # some of its sentences end with the word already
    return str(error)[:SHOWN_ERROR]
