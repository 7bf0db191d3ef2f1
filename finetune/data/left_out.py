"""Text that would be dropped silently: the part of a row that reaches neither prompt nor answer, by name and share.

left = LeftOut(format, columns)
left.look(row, messages)            # for every row
left.sentences()                    # ["Column `reasoning` (38 % of the text) is ignored."]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from finetune.data.formats import Format
from finetune.data.formats.cells import Message
from finetune.data.rows import too_many_columns
from finetune.foreign import COLUMNS

SHOWN_COLUMNS = 4


class LeftOut:
    """Which columns, and which text inside the columns that are read, reach neither prompt nor answer."""

    def __init__(self, chosen: Format, columns: Sequence[str]) -> None:
        self.read = set(chosen.columns)
        self.columns = [column for column in columns if column not in self.read]
        self.inside: Callable[[dict[str, Any]], Iterator[tuple[str, Any]]] | None = getattr(chosen, "left_out", None)
        self.characters: Counter[str] = Counter()
        self.used = 0

    def look(self, values: dict[str, Any], messages: Sequence[Message]) -> None:
        self.used += sum(len(turn["content"]) for turn in messages)
        for column in values:
            if column not in self.read:
                if column not in self.columns:
                    if len(self.columns) > COLUMNS:
                        raise too_many_columns("The data")
                    self.columns.append(column)
                self.characters[column] += characters_in(values[column])
        if self.inside is not None:
            for name, value in self.inside(values):
                self.characters[name] += characters_in(value)

    def shares(self) -> dict[str, float]:
        """Of all characters of text in the rows, most first; columns without text are left out."""
        total = self.used + sum(self.characters.values())
        return {name: round(number / total, 4) for name, number in self.characters.most_common() if number}

    def sentences(self) -> list[str]:
        shares = list(self.shares().items())
        if not shares:
            return []
        named = [f"`{name}` ({_percent(share)} of the text)" for name, share in shares[:SHOWN_COLUMNS]]
        more = f" and {len(shares) - SHOWN_COLUMNS} more" if len(shares) > SHOWN_COLUMNS else ""
        which = ("Column ", " is") if len(shares) == 1 else ("Columns ", " are")
        return [f"{which[0]}{', '.join(named)}{more}{which[1]} ignored."]


def characters_in(value: Any) -> int:
    """Characters of the text in a cell, however nested; a number is no text, also when it is spelled in a string."""
    if isinstance(value, str):
        return len(value) if any(map(str.isalpha, value)) else 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(characters_in, inner))


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else "under 1 %"
