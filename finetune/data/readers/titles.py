"""Lines above the names of a table's columns, such as the title that a report or a merged cell has there.

titled(iter([(1, ["FAQ 2024"]), (2, ["question", "answer"]), (3, ["2 + 2?", "4"])]))
    ->  ["FAQ 2024"], (2, ["question", "answer"]), the lines from 3 on
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from finetune.data.formats import is_known
from finetune.letters import shortened

MOST = 10  # lines
SHOWN = 60  # characters
Line = tuple[int, list[Any]]


def titled(lines: Iterator[Line]) -> tuple[list[str], Line | None, Iterator[Line]]:
    """The texts above the names, the line with the names (None if there are no lines), and the lines below it.

    A line with one filled cell is a title where a longer one with several follows soon, and most lines below that have several too.
    """
    head = list(islice(lines, MOST))
    at = next((number for number, (_, cells) in enumerate(head) if len(filled(cells)) > 1), 0)
    below = [len(filled(cells)) > 1 for _, cells in head[at + 1 :]]
    longer = all(len(cells) < len(head[at][1]) for _, cells in head[:at])
    titles = [str(cell).strip() for _, cells in head[:at] for cell in filled(cells)]
    if not longer or 2 * sum(below) <= len(below) or is_known(titles[:1], [], None):
        at, titles = 0, []
    return titles, head[at] if head else None, chain(head[at + 1 :], lines)


def filled(cells: Sequence[Any]) -> list[Any]:
    """The cells with something in them."""
    return [cell for cell in cells if str(cell).strip()]


def about_titles(name: str, titles: Sequence[str]) -> str:
    """What a person should know about lines that are not read."""
    shown = shortened(titles[0], SHOWN)
    more = f" and {len(titles) - 1} more" if len(titles) > 1 else ""
    return f"{name}: `{shown}`{more} above the names of the columns is not read."
