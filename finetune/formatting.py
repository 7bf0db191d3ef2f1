"""Numbers, strangers' texts and parts of commands as any layer may show them: `size(3_221_225_472)` is "3.0 GB"."""

from __future__ import annotations

import re
import shlex


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


def quoted(part: object) -> str:
    """A path or a setting as one word of a command, to be copied into a shell: `out dir` is `'out dir'`."""
    text = str(part)
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else shlex.quote(text)


def strip_control_chars(text: str) -> str:
    """Text of models, data and strangers without anything that would steer the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
