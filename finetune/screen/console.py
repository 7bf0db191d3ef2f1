"""Where words for people go, whatever a library does to stdout meanwhile.

    console = people()          # stdout; people(stderr=True) when stdout belongs to --json

The console writes to its own copy of the file descriptor, so that screen/quiet.py can point the original at a log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.theme import Theme

from finetune.formatting import strip_control_chars
from finetune.screen.streams import lasting

THEME = Theme({"quiet": "dim", "done": "green", "warning": "yellow", "problem": "red", "number": "bold", "good": "green", "bad": "red"})
AS_IT_IS: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # of a console: what it prints means only itself
NARROWEST = 20  # columns; of a table in fewer nothing would be left, and the terminal breaks the lines
VERDICTS = {"better": "good", "worse": "bad"}
STUDENT = {"usable": "good", "weak": "warning", "not usable": "bad"}


class SafeConsole(Console):
    """A console on which no text, wherever it comes from, can move the cursor."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=strip_control_chars(segment.text))


def people(*, stderr: bool = False) -> Console:
    """A console on a copy of stdout or stderr; styled only on a real terminal that wants it."""
    stream = sys.stderr if stderr else sys.stdout
    stream.flush()
    file = lasting(os.dup(stream.fileno()), "stderr" if stderr else "stdout", stream.encoding, closes=True)
    console = SafeConsole(file=file, theme=THEME, force_terminal=animated(file), no_color=no_colour() or None, soft_wrap=False, **AS_IT_IS)
    if console.width < NARROWEST:
        console.width = NARROWEST
    return console


def animated(file: object) -> bool:
    """Whether lines on this stream can be redrawn; FORCE_COLOR and friends do not make a pipe a terminal."""
    isatty = getattr(file, "isatty", lambda: False)
    return bool(isatty()) and os.environ.get("TERM") not in ("dumb", "unknown")


def no_colour() -> bool:
    """NO_COLOR (no-color.org), which --no-color also sets."""
    return bool(os.environ.get("NO_COLOR"))
