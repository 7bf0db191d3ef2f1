"""Numbers and untrusted text, formatted for any layer: `size(3_221_225_472)` is "3.2 GB"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def size(number: float) -> str:
    """Bytes in GB, MB or kB: powers of 1000, as disks and the Hub count."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.0f} MB" if number >= 1e6 else f"{max(number, 1e3 if number else 0) / 1e3:.0f} kB"


def percent(share: float, digits: int = 0) -> str:
    """0.384 -> "38 %"; 0.987 with one digit -> "98.7 %"; never 100 % for less than everything, nor 0 % for more than nothing."""
    whole = 10**digits
    if 0 < share < 0.01 / whole:
        return f"under {1 / whole:g} %"
    shown = min(100 * share, 100 - 1 / whole) if share < 1 else 100 * share
    return f"{shown:.{digits}f} %"


def count(number: float) -> str:
    """134515008 -> 134.5M."""
    if number >= 1e6:
        return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
    return f"{number / 1e3:.0f}k" if number >= 1e4 else f"{number:,.0f}"


def ratio(number: float, digits: int = 2) -> str:
    """How many times as large, as people say it: "0.74", "1.38", "4.4", "34", "about 3,400"; `digits` are those of what is below 2."""
    if number < 0.01:
        return "under 0.01"
    if number < 99.5:
        return f"{number:.{2 if number < 0.1 else digits if number < 1.995 else 1 if number < 9.95 else 0}f}"
    return f"about {float(f'{number:.2g}'):,.0f}"


def times(number: float, thing: str = "") -> str:
    """A ratio in words: "0.74 times the size", "the same size" where it is one."""
    if 0.995 <= number < 1.005:
        return f"the same {thing}".rstrip()
    return f"{ratio(number)} times the {thing}" if thing else f"{ratio(number)} times"


def counted(number: int, thing: str, verb: str = "") -> str:
    """1, "row", "are" -> "1 row is"; 2,000 -> "2,000 rows are"."""
    alone = {"are": "is", "have": "has"}
    words = (f"{number:,} {thing}", alone.get(verb, verb)) if number == 1 else (f"{number:,} {thing}s", verb)
    return " ".join(filter(None, words))


def beside_ignored(notes: Sequence[str]) -> list[str]:
    """Notes on data without those on ignored columns and text, for a place that lists these by themselves."""
    return [note for note in notes if not note.endswith((" is ignored.", " are ignored."))]


def epochs(number: float | str) -> str:
    """1 -> "1 epoch", 2.5 -> "2.5 epochs"."""
    if isinstance(number, str):
        return f"epochs {number}"
    return f"{number:g} epoch{'s' if number != 1 else ''}"


KEPT = {"layers": "layers", "ffn": "width", "heads": "attention heads", "size": "parameters"}


def enumerated(things: Sequence[str], word: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    *others, last = things or [""]
    return f"{', '.join(others)} {word} {last}" if others else last


def kept(amounts: Mapping[str, float | None], whose: str = "its") -> str:
    """What a student keeps of its teacher: {"layers": 20, "ffn": 0.75} as "20 of its layers and 75 % of its width"."""
    parts = []
    for name, amount in amounts.items():
        if amount is not None:
            thing = "channels" if name == "ffn" and amount >= 1 else KEPT[name]
            parts.append(f"{percent(amount) if amount < 1 else f'{amount:,}'} of {whose} {thing}")
    return enumerated(parts)


def student_parts(facts: Mapping[str, Any]) -> str:
    """How a student was made, by run/student.json: "20 of 30 layers (10 to 19 left out), 99.1M of 134.5M parameters"."""
    parts = []
    if "layers" in facts:
        ends = facts["left_out"] if isinstance(facts["left_out"][0], list) else [facts["left_out"]]  # of several rounds more than one
        ranges = ", ".join(f"{first}{f' to {last}' if last > first else ''}" for first, last in ends)
        parts.append(f"{facts['layers']} of {facts['of_layers']} layers ({ranges} left out)")
    if "ffn" in facts:
        parts.append(f"{facts['ffn']:,} of {facts['of_ffn']:,} channels in each feed-forward part")
    if "heads" in facts:
        parts.append(f"{facts['heads']} of {facts['of_heads']} attention heads in each layer")
    if "parameters" in facts:
        parts.append(f"{count(facts['parameters'])} of {count(facts['of_parameters'])} parameters")
    return ", ".join(parts)


def in_lines(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Broken at spaces alone: a word that is longer than a line is a path or part of a command. `first` and `others` begin the lines."""
    import textwrap

    made = textwrap.TextWrapper(width, first, others, break_long_words=False, break_on_hyphens=False)
    return made.wrap(text)


# Control characters but for tab and line end, what turns letters around, and halves of characters (in a file name that is no UTF-8).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def nearness(gate: Mapping[str, Any]) -> str:
    """How near an exported file is to the model, as its record has it: "0.0021", of a graph "logits within 1e-05 of the largest"."""
    if gate.get("logits") is not None:
        return f"logits within {gate['logits']:.0e} of the largest"
    return "not measured" if gate.get("kl") is None else f"{gate['kl']:.2g}"


def strip_control_chars(text: str) -> str:
    """Text from outside, safe for a terminal and to copy: "?" for what could move the cursor or show letters in another order.

    Everything that is ordinary in some language stays: no-break and wide spaces, joiners, marks of direction, emoji.
    """
    return _UNSAFE.sub("?", text)


def roughly(seconds: float) -> str:
    """The same of a forecast: "about 5 minutes", "less than a minute"."""
    return f"{'about ' if seconds >= 60 else ''}{spoken(seconds)}"


def spoken(seconds: float) -> str:
    """A length of time as people say it: "5 minutes"."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            return f"{round(seconds / unit)} {name}{'s' if round(seconds / unit) != 1 else ''}"
    return "less than a minute"
