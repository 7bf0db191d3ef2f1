"""Where answers begin and end in rows with the same roles: found in a row of probes, true of all that are written like it.

shape = Shape("<user>Probe0q\\n<bot>Probe1q</s>", {1: Place(19, 30, closed=True)})
shape.places(["Hi", "Hello!"], "<user>Hi\\n<bot>Hello!</s>")     # {1: Place(14, 24, closed=True)}
shape.places(["Hi", "Hello!"], "<user>HI\\n<bot>HELLO!</s>")     # None: the template did something else here
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

PROBE = re.compile(r"Probe(0|[1-9][0-9]{0,8})q")


class Place(NamedTuple):
    """A place in a rendered row, and whether a token that ends the turn is in it."""

    start: int
    end: int
    closed: bool


class Shape:
    """`whole` is a rendered row of probes, and `places` are those of its answers."""

    def __init__(self, whole: str, places: Mapping[int, Place], notices: frozenset[str] = frozenset()) -> None:
        self.parts = PROBE.split(whole)  # fixed texts, and between them the numbers of turns
        self.found, self.notices = places, notices
        self.probes = [probe(int(part)) if place % 2 else part for place, part in enumerate(self.parts)]

    def holds(self, turns: int) -> bool:
        """Whether the probes are those of so many turns, and every answer begins and ends in a fixed text: a template is anybody's."""
        ends = [0, *accumulate(map(len, self.probes))]
        fixed = [ends[place : place + 2] for place in range(0, len(self.probes), 2)]
        known = all(int(number) < turns for number in self.parts[1::2])
        return known and all(any(one <= at <= other for one, other in fixed) for place in self.found.values() for at in place[:2])

    def places(self, texts: Sequence[str], whole: str) -> dict[int, Place] | None:
        """Those of a row that is rendered as the probes were, but for blanks at the ends of its texts; None for every other row."""
        for said in (texts, [text.strip() for text in texts]):
            filled = _filled(self.parts, said)
            if "".join(filled) == whole:
                before, now = [[0, *accumulate(map(len, parts))] for parts in (self.probes, filled)]
                return {
                    number: Place(_moved(place.start, before, now), _moved(place.end, before, now), place.closed)
                    for number, place in self.found.items()
                }
        return None


def probe(number: int) -> str:
    return f"Probe{number}q"


def _filled(parts: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [texts[int(part)] if place % 2 else part for place, part in enumerate(parts)]


def _moved(position: int, before: Sequence[int], now: Sequence[int]) -> int:
    """A position inside or at the end of a fixed text, which begins elsewhere now."""
    fixed = next(place for place in range(0, len(before), 2) if before[place] <= position <= before[place + 1])
    return now[fixed] + position - before[fixed]
