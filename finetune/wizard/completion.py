"""Suggestions under a text question, looked up in a thread once typing pauses so that keys never wait for a disk or a network.

suggestions = Suggestions(complete_path, buffer)
suggestions.found          # ["data/train.jsonl", ...]
"""

from __future__ import annotations

import threading

from prompt_toolkit.application import get_app_or_none
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import FormattedText

from finetune.wizard.prompter import Complete, Fragments

PAUSE_SECONDS = 0.15
MOST_SHOWN = 6


class Suggestions:
    """What `complete` finds for the text of a buffer; Down and Up pick, Tab takes."""

    def __init__(self, complete: Complete, buffer: Buffer) -> None:
        self._complete = complete
        self._buffer = buffer
        self._timer: threading.Timer | None = None
        self._at: int | None = None
        self.found: list[str] = []

    @property
    def picked(self) -> str | None:
        return None if self._at is None else self.found[self._at]

    def refresh(self) -> None:
        """Look again after a pause in typing."""
        self.found, self._at = [], None
        if self._timer:
            self._timer.cancel()
        if self._buffer.text:
            self._timer = threading.Timer(PAUSE_SECONDS, self._look, [self._buffer.text, get_app_or_none()])
            self._timer.daemon = True
            self._timer.start()

    def move(self, by: int) -> None:
        if self.found:
            start = -1 if self._at is None else self._at
            self._at = max(0, start + by) % len(self.found)

    def take(self) -> None:
        """Put the picked (or first) suggestion into the line."""
        text = self.picked or self.found[0]
        self._buffer.text = text
        self._buffer.cursor_position = len(text)

    def lines(self, width: int) -> FormattedText:
        shown: Fragments = []
        for at, text in enumerate(self.found):
            here = at == self._at
            shown += [
                ("", "\n" if at else ""),
                ("class:pointer" if here else "class:quiet", f"  {'> ' if here else '  '}{text}"[: width - 1]),
            ]
        return FormattedText(shown)

    def _look(self, text: str, app: object) -> None:
        found = [candidate for candidate in self._complete(text) if candidate != text][:MOST_SHOWN]
        if text == self._buffer.text:
            self.found = found
            if app is not None:
                app.invalidate()  # type: ignore[attr-defined]
