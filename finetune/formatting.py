"""Numbers and untrusted text, formatted for any layer: `size(3_221_225_472)` is "3.2 GB"."""

from __future__ import annotations


def size(number: float) -> str:
    """Bytes in GB, MB or kB: powers of 1000, as disks and the Hub count."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.0f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def count(number: float) -> str:
    """134515008 -> 134.5M."""
    if number >= 1e6:
        return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
    return f"{number / 1e3:.0f}k" if number >= 1e4 else f"{number:,.0f}"


def strip_control_chars(text: str) -> str:
    """Untrusted text without control characters."""
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)


def spoken(seconds: float) -> str:
    """A length of time as people say it: "5 minutes"."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            return f"{round(seconds / unit)} {name}{'s' if round(seconds / unit) != 1 else ''}"
    return "less than a minute"
