"""Where words for people go, whatever a library does to stdout meanwhile.

    console = people()          # stdout; people(stderr=True) when stdout belongs to --json

The console writes to its own copy of the file descriptor, so that screen/quiet.py can point the original at a log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from rich.theme import Theme

from finetune.formatting import strip_control_chars
from finetune.screen.streams import lasting
from finetune.screen.wording import breaks, command_in

THEME = Theme({"quiet": "dim", "done": "green", "warning": "yellow", "problem": "red", "number": "bold", "good": "green", "bad": "red"})
AS_IT_IS: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # of a console: what it prints means only itself
NARROWEST = 20  # columns; of a table in fewer nothing would be left, and the terminal breaks the lines
VERDICTS = {"better": "good", "worse": "bad"}
STUDENT = {"usable": "good", "weak": "warning", "not usable": "bad"}


class SafeConsole(Console):
    """A console on which no text, wherever it comes from, can move the cursor, and that breaks lines at spaces alone.

    A word that is longer than the screen is a path or part of a command: the terminal breaks it, and it can still be copied. Tables break
    what is in their cells.
    """

    def print(self, *objects: Any, overflow: OverflowMethod | None = "ignore", crop: bool = False, **how: Any) -> None:
        if any(isinstance(each, Text) and each.no_wrap for each in objects):  # which rich forgets where it joins texts
            how.setdefault("no_wrap", True)
        super().print(*objects, overflow=overflow, crop=crop, **how)

    def render_lines(
        self,
        renderable: RenderableType,
        options: ConsoleOptions | None = None,
        *,
        style: Style | None = None,
        pad: bool = True,
        new_lines: bool = False,
    ) -> list[list[Segment]]:
        """As rich does it, but nothing is cut off."""
        width = (options or self.options).max_width
        lines = []
        for line in Segment.split_lines(Segment.apply_style(self.render(renderable, options), style)):
            length = max(width, Segment.get_line_length(line))
            whole = Segment.adjust_line_length(line, length, style=style, pad=pad)
            lines.append([*whole, Segment.line()] if new_lines else whole)
        return lines

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        how = options or self.options
        renderable = Text(renderable) if isinstance(renderable, str) else renderable
        if isinstance(renderable, Text) and not (renderable.no_wrap or how.no_wrap) and (renderable.overflow or how.overflow) == "ignore":
            renderable, how = self._broken(renderable, how.max_width), how.update(no_wrap=True)
        for segment in super().render(renderable, how):
            yield segment if segment.control else segment._replace(text=strip_control_chars(segment.text))

    def _broken(self, text: Text, width: int) -> Text:
        """The text in lines, commands whole; of words only those of wide letters are broken: Chinese and Japanese have no spaces."""
        lines = list[Text]()
        for line in text.split(allow_blank=True):
            for part in line.divide(breaks(line.plain, width)):
                part.rstrip()
                is_wide, is_to_copy = part.cell_len > max(width, len(part)), "/" in part.plain or command_in(part.plain)[0] == 0
                lines += part.wrap(self, width, overflow="fold") if is_wide and not is_to_copy else [part]
        return Text("\n", end=text.end).join(lines)


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
    return bool(isatty()) and not _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM") in ("dumb", "unknown")


def draws_nothing(console: Console) -> bool:
    """Whether bars and marks must be words: on a terminal with nothing but ASCII or lines, which a screen reader may read."""
    return console.options.ascii_only or _is_dumb()


def no_colour() -> bool:
    """NO_COLOR (no-color.org), which --no-color also sets."""
    return bool(os.environ.get("NO_COLOR"))
