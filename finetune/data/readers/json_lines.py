"""One JSON object per line, as `parse_lines` takes them from any text.

{"question": "2 + 2?", "answer": "4"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from finetune.data.json_values import DECODER
from finetune.data.rows import Row, SkippedRow
from finetune.foreign import VALUES

SHOWN_ERROR = 80


def parse_lines(name: str, lines: Iterator[str], first: int = 1) -> Iterator[Row | SkippedRow]:
    """The objects of the lines, which count from `first`; a line without one is skipped with the reason."""
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        if too_many_values(line):
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


def too_many_values(text: str, start: int = 0) -> bool:
    """Whether the JSON from `start` on would take many times the memory of its text, by the signs before values; some may be in texts."""
    return len(text) - start > VALUES and sum(text.count(sign, start) for sign in ",:[{") > VALUES


def reason_of(error: ValueError | RecursionError) -> str:
    """What is wrong with a piece of JSON, in few words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)[:SHOWN_ERROR]
