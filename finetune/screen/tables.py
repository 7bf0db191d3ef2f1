"""Small pictures that several screens share.

console.print(fact_list([("memory", "8.0 GB free of 16.0 GB", True)]))
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune.formatting import strip_control_chars


def pairs(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names on the left, what they are on the right; text is shown letter by letter, whatever it holds."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="quiet", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in rows:
        table.add_row(Text(name), Text(strip_control_chars(fact)) if isinstance(fact, str) else fact)
    return table


def fact_list(facts: Iterable[tuple[str, str, bool]]) -> RenderableType:
    """(name, value, fine): what is not fine stands out."""
    return block(pairs((name, Text(value, style="" if fine else "warning")) for name, value, fine in facts), above=0)


def block(content: RenderableType, *, above: int = 1) -> RenderableType:
    """Indented by two, with room above."""
    return Padding(content, (above, 0, 0, 2), expand=False)
