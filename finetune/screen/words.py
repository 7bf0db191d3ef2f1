"""Numbers as people say them: `size(3_221_225_472)` is "3.0 GB", `duration(84)` is "1:24"."""

from __future__ import annotations

import math
import sys
from pathlib import Path


def size(number: float) -> str:
    """Bytes in MB or GB (powers of 1024, as task managers count)."""
    if number >= 2**30:
        return f"{number / 2**30:.1f} GB"
    return f"{number / 2**20:.0f} MB" if number >= 2**20 else f"{number / 2**10:.0f} kB"


def count(number: float) -> str:
    """134515008 -> 134.5M."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= unit:
            shown = number / (1e3 if letter == "k" else unit)
            return f"{shown:.0f}{letter}" if letter == "k" else f"{shown:.1f}{letter}"
    return f"{number:,.0f}"


def percent(share: float) -> str:
    """0.384 -> 38 %."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "under 1 %"


def duration(seconds: float) -> str:
    """Clock style: 0:08, 1:24, 2:03:10."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """A forecast, no more precise than it is."""
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5)} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def harmless(text: str) -> str:
    """Text of models, data and strangers without anything that would steer the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def command_name() -> str:
    """What the person typed to start us, to be typed again."""
    started = Path(sys.argv[0])
    return f"python {sys.argv[0]}" if started.name == "finetune_cli.py" else "finetune-cli"


def as_typed(text: str) -> str:
    """Commands in a hint of the engine, as this person would type them."""
    return text.replace("python finetune_cli.py ", "finetune-cli ").replace("finetune-cli ", f"{command_name()} ")
