"""Suggestions under a text question, looked up in a thread once typing pauses so that keys never wait for a disk or a network.

suggestions = Suggestions(complete_path, buffer)
suggestions.found          # ["data/train.jsonl", ...], which prompt_toolkit's menu shows

Its ThreadedCompleter (`complete_in_thread`) will not do: an answered question would wait until the Hub has answered too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from prompt_toolkit.application import Application, get_app_or_none
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from finetune.formatting import strip_control_chars

PAUSE_SECONDS = 0.15
MOST_SHOWN = 6


class Suggestions(Completer):
    """What `complete` finds for the text of a buffer."""

    def __init__(self, complete: Callable[[str], Sequence[str]], buffer: Buffer) -> None:
        self._complete = complete
        self._buffer = buffer
        self._timer: threading.Timer | None = None
        self.found: list[str] = []

    def refresh(self) -> None:
        """Look again after a pause in typing."""
        self.found = []
        if self._timer:
            self._timer.cancel()
        if self._buffer.text:
            self._timer = threading.Timer(PAUSE_SECONDS, self._look, [self._buffer.text, get_app_or_none()])
            self._timer.daemon = True
            self._timer.start()

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for text in self.found if document.is_cursor_at_the_end else []:
            yield Completion(text, start_position=-len(document.text), display=strip_control_chars(text))

    def _look(self, text: str, app: Application[Any] | None) -> None:
        if self._buffer.complete_state:  # the text is itself a suggestion that the arrows point at
            return
        found = [candidate for candidate in self._complete(text) if candidate != text][:MOST_SHOWN]
        if text == self._buffer.text:
            self.found = found
            if app and app.loop:
                with suppress(RuntimeError):  # the question was answered meanwhile: its loop is closed
                    app.loop.call_soon_threadsafe(self._buffer.start_completion, context=app.context)
