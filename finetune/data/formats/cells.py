"""What a record becomes, reading one cell of it as text, and finding columns by their usual names.

as_text({"answer": 42}["answer"], "answer")  ->  "42"
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypedDict

from finetune.data.formats.languages import in_english
from finetune.data.json_values import Number
from finetune.data.rows import RowProblem

SHOWN = 4  # parts of an object


class Turn(TypedDict):
    role: str  # system, user, assistant, tool; "text" for a plain document
    content: str


class Message(Turn, total=False):
    learn: bool  # False: an answer that is read, but not learned
    reasoning_content: str  # what the model thinks before this answer
    tool_calls: list[dict[str, Any]]  # as chat templates read them: {"type": "function", "function": {"name", "arguments": {...}}}
    tool_call_id: str
    name: str  # of the tool whose result this turn is


class Messages(TypedDict):
    messages: list[Message]


class Record(Messages, total=False):
    """One row. Rows that are tokens already have them too; their messages are then only what they are compared by."""

    tools: list[dict[str, Any]]  # definitions, as apply_chat_template(tools=) takes them
    input_ids: list[int]
    labels: list[int]


def is_learned(turn: Message) -> bool:
    """Whether the model learns to write this turn."""
    return turn["role"] in ("assistant", "text") and turn.get("learn", True)


def is_blank(turn: Message) -> bool:
    """Whether a turn says, thinks and calls nothing."""
    return not (turn["content"].strip() or turn.get("tool_calls") or turn.get("reasoning_content", "").strip())


def find_column(columns: Sequence[str], *names: str) -> str | None:
    """The first of `names` that is among `columns`, whatever its case; also "System Prompt" for system_prompt, and Frage for question."""
    known = _by_lower_case(tuple(columns))
    return next((known[name] for name in names if name in known), None)


@lru_cache(maxsize=64)  # formats and marks ask for hundreds of names in the same columns
def _by_lower_case(columns: tuple[str, ...]) -> dict[str, str]:
    lower = {column.strip().lower(): column for column in reversed(columns)}
    english = {in_english(column): column for column in reversed(columns)}
    return english | {re.sub("[ -]", "_", name): column for name, column in lower.items()} | lower


def is_missing(value: Any) -> bool:
    """Nothing in the cell; the words "None", "NA" and "null" are text like any other."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_empty(value: Any) -> bool:
    """Nothing in the cell, or nothing but blanks."""
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def is_blank_row(row: Mapping[str, Any]) -> bool:
    """Whether there is nothing in any of its cells."""
    return all(map(is_empty, row.values()))


def only_text(value: Any) -> str | None:
    """The text that is alone in a list or an object, such as ["Oslo"] or {"answer": "Oslo"}; None elsewhere."""
    inside = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inside, list) or len(inside) != 1 or not isinstance(inside[0], str) or isinstance(inside[0], Number):
        return None
    return str(inside[0])


def as_text(value: Any, column: str) -> str:
    """A cell as text: numbers and truth values as JSON writes them; raises RowProblem for a missing or nested cell."""
    if isinstance(value, str):
        return str(value)
    if (alone := only_text(value)) is not None:
        return alone
    if is_missing(value):
        raise RowProblem(f"column {column} is missing")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict | bytes):
        object = f"an object ({', '.join(_texts_first(value)[:SHOWN])})" if isinstance(value, dict) else "a list"
        raise RowProblem(f"column {column} has {'bytes' if isinstance(value, bytes) else object}, not text")
    return str(value)


def _texts_first(parts: dict[str, Any]) -> list[str]:
    """The names of an object's parts, of which the first is proposed."""
    return [str(name) for name in sorted(parts, key=lambda name: not isinstance(parts[name], str))]


def optional_text(row: dict[str, Any], column: str | None) -> list[str]:
    """The cell of a column that a row, or the whole source, may lack: its texts that are not blank, of which a list has several."""
    if column is None or is_missing(row.get(column)):
        return []
    cell = row[column]
    texts = cell if isinstance(cell, list) and all(isinstance(text, str) for text in cell) else [as_text(cell, column)]
    return [text for text in texts if text.strip()]


def joined(first: str, more: Sequence[str]) -> str:
    """The parts of a prompt with blank lines between them; one that says nothing is left out."""
    return "\n\n".join(part for part in (first, *more) if part.strip()) or first


def several(value: Any) -> list[str]:
    """The texts of a list that has more than one, and nothing else."""
    texts = isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) and not isinstance(text, Number) for text in value)
    return list(value) if texts else []


def after_the_first(row: dict[str, Any], column: str) -> Iterator[tuple[str, Any]]:
    """What `as_answer` leaves of equally good answers."""
    if (texts := several(row.get(column))) and (others := [text for text in texts if text != texts[0]]):
        yield f"{column} after the first", others


def as_answer(value: Any, column: str) -> str:
    """A cell as text that must not be blank: an empty answer would only teach the model to stop. Of equally good ones the first."""
    text = next(iter(several(value)), None)
    text = as_text(value, column) if text is None else text
    if not text.strip():
        raise RowProblem(f"column {column} is empty")
    return text
