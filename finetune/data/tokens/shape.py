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
        self.parts, self.notices = PROBE.split(whole), notices  # fixed texts, and between them the numbers of turns
        probes = [probe(int(part)) if place % 2 else part for place, part in enumerate(self.parts)]
        begins = [0, *accumulate(map(len, probes))]
        self.found = {number: (_anchor(place.start, begins), _anchor(place.end, begins), place.closed) for number, place in places.items()}

    def holds(self, turns: int) -> bool:
        """Whether the probes are those of so many turns, and every answer begins and ends in a fixed text: a template is anybody's."""
        return all(int(number) < turns for number in self.parts[1::2]) and all(start and end for start, end, _ in self.found.values())

    def places(self, texts: Sequence[str], whole: str) -> dict[int, Place] | None:
        """Those of a row that is rendered as the probes were, but for blanks at the ends of its texts; None for every other row."""
        for said in (texts, [text.strip() for text in texts]):
            filled = [said[int(part)] if place % 2 else part for place, part in enumerate(self.parts)]
            if "".join(filled) == whole:
                begins = [0, *accumulate(map(len, filled))]
                return {
                    number: Place(begins[start.part] + start.behind, begins[end.part] + end.behind, closed)
                    for number, (start, end, closed) in self.found.items()
                    if start and end
                }
        return None


class Anchor(NamedTuple):
    """A position by the fixed text that it is in, or at the end of, and so many characters behind its beginning."""

    part: int
    behind: int


def _anchor(position: int, begins: Sequence[int]) -> Anchor | None:
    """None for a position inside a probe; `begins` are where parts begin, every other one a fixed text."""
    part = next((part for part in range(0, len(begins) - 1, 2) if begins[part] <= position <= begins[part + 1]), None)
    return None if part is None else Anchor(part, position - begins[part])


def probe(number: int) -> str:
    return f"Probe{number}q"
