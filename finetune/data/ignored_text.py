"""Columns, and text inside columns, that reach neither prompt nor answer: reported by name and share, so that nothing is dropped silently.

left = IgnoredText(format, read, columns)
left.look(row, messages)            # for every row
left.sentences()                    # ["Columns `reasoning` (38 % of the text) and `label` (under 1 % of the text) are ignored."]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from finetune.data.formats import Format
from finetune.data.formats.cells import Message
from finetune.data.json_values import Number
from finetune.data.rows import AFTER, too_many_columns
from finetune.foreign import COLUMNS
from finetune.formatting import counted, percent

SHOWN_COLUMNS = 12


class IgnoredText:
    """Which columns, and which text inside the columns that are `read`, reach neither prompt nor answer."""

    def __init__(self, chosen: Format, read: Sequence[str], columns: Sequence[str]) -> None:
        self.columns: list[str] = []
        self.read_by(chosen, read, columns)
        self.characters: Counter[str] = Counter()
        self.used = 0

    def read_by(self, chosen: Format, read: Sequence[str], columns: Sequence[str]) -> None:
        """Continue the count with a format that reads more columns."""
        self.read = set(read)
        self.columns = [column for column in dict.fromkeys([*self.columns, *columns]) if column not in self.read]
        self.inside: Callable[[dict[str, Any]], Iterator[tuple[str, Any]]] | None = getattr(chosen, "left_out", None)

    def look(self, values: dict[str, Any], messages: Sequence[Message]) -> None:
        self.used += sum(len(turn["content"]) + len(turn.get("reasoning_content", "")) for turn in messages)
        for column in values:
            if column not in self.read:
                if column not in self.columns:
                    if len(self.columns) > COLUMNS:
                        raise too_many_columns("The data")
                    self.columns.append(column)
                value = values[column]
                if not any(value == turn["content"] for turn in messages):  # in two columns, so not lost
                    self.characters[column] += characters_in(value)
        if self.inside is not None:
            answered = messages[-1]["role"] == "assistant"  # maybe by an answer that is yet to come
            for name, value in self.inside(values):
                if not (answered and name.endswith(AFTER)):
                    self.characters[name] += characters_in(value)

    def shares(self) -> dict[str, float]:
        """Of all characters of text in the rows, most first; columns without text are left out."""
        total = self.used + sum(self.characters.values())
        return {name: round(number / total, 4) for name, number in self.characters.most_common() if number}

    def sentences(self) -> list[str]:
        """Every ignored column by its name, those with most text first."""
        shares = self.shares()
        names = [f"`{name}` ({percent(share)} of the text)" for name, share in shares.items()]
        names += [f"`{column}`" for column in self.columns if column not in shares]
        if not names:
            return []
        shown = names if len(names) <= SHOWN_COLUMNS else [*names[:SHOWN_COLUMNS], f"{len(names) - SHOWN_COLUMNS} more"]
        which = ("Column ", " is") if len(names) == 1 else ("Columns ", " are")
        listed = " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
        return [f"{which[0]}{listed}{which[1]} ignored."]


def left_out_sentences(rows: Mapping[str, int]) -> list[str]:
    """How many rows are left out, and what their data say: {"column label marks the answer as undesired": 40}."""
    sentences = []
    for reason, number in rows.items():
        otherwise = " Rename the column if it means something else." if reason.startswith("column ") else ""
        sentences.append(f"{counted(number, 'row', 'are')} left out: {reason}.{otherwise}")
    return sentences


def characters_in(value: Any) -> int:
    """Characters of the text and of single numbers in a cell, however nested; a list of numbers is no text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return len(str(value))
    if isinstance(value, dict):
        return sum(map(characters_in, value.values()))
    return sum(characters_in(inner) for inner in value if not _is_number(inner)) if isinstance(value, list | tuple) else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Number)
