"""What questionary's questions lack: notes next to the choices, a line that is checked in the background and has suggestions.

    asked = questionary.select("Method", [questionary.Choice(choice.title, choice.value) for choice in choices])
    keys = add_notes(asked, choices, width=lambda: 80, height=lambda: 12)

terminal.py adds help and the keys that all questions have. prompt_toolkit's ThreadedCompleter (`complete_in_thread`) will not do
for suggestions: an answered question would wait until the Hub has answered too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import questionary
from prompt_toolkit.application import Application, get_app_or_none
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, Dimension
from prompt_toolkit.utils import get_cwidth
from questionary.prompts.common import InquirerControl

from finetune.formatting import strip_control_chars
from finetune.wizard.asking.layout import beginning, columns_fit, spelled, wrap
from finetune.wizard.asking.prompter import Choice, Fragments, Question, plain

MOST_CHOICES_SHOWN = 12
MOST_SUGGESTIONS = 6
AT_ONCE_SECONDS = 0.1
PAUSE_SECONDS = 0.15  # in typing, before suggestions are looked up
_CHECKS = ThreadPoolExecutor(1, thread_name_prefix="check-answer")


def add_notes(asked: questionary.Question, choices: Sequence[Choice], width: Callable[[], int], height: Callable[[], int]) -> KeyBindings:
    """Show notes next to the titles, or below the chosen one where room is short; digits, Home and End move in the list too."""
    windows = asked.application.layout.find_all_windows()
    window, control = next((window, window.content) for window in windows if isinstance(window.content, InquirerControl))

    def listed() -> Fragments:
        side_by_side = columns_fit([(choice.title, choice.note) for choice in choices], width() - 3)
        widest = max(get_cwidth(choice.title) for choice in choices)
        lines: Fragments = []
        for at, choice in enumerate(choices):
            here = at == control.pointed_at
            lines += [("class:pointer", "❯ "), ("[SetCursorPosition]", "")] if here else [("", "  ")]
            lines += [("class:chosen" if here else "", _title(choice.title, width() - 3, whole=here))]
            if side_by_side and choice.note:
                lines += [("class:quiet", " " * (widest - get_cwidth(choice.title) + 2) + choice.note)]
            lines += [("", "\n")]
            if here and not side_by_side and choice.note:
                lines += [*wrap([("class:quiet", "    " + choice.note)], width()), ("", "\n")]
        return spelled(lines[:-1])

    control.text = lambda: FormattedText(listed())
    window.height = lambda: min(plain(listed()).count("\n") + 1, MOST_CHOICES_SHOWN, height())
    places = {str(number): number - 1 for number in range(1, 1 + min(9, len(choices)))}
    keys = KeyBindings()
    for key, place in {**places, "home": 0, "end": len(choices) - 1}.items():
        keys.add(key)(lambda event, place=place: setattr(control, "pointed_at", place))
    return keys


def _title(title: str, room: int, *, whole: bool) -> str:
    """As much of a title as fits, or the whole of it in several lines."""
    if get_cwidth(title) <= room:
        return title
    return plain(wrap([("", title)], room + 1)).replace("\n", "\n  ") if whole else f"{beginning(title, room - 1)}…"


class Line:
    """The text typed so far, its completions, and what is wrong with it.

    Enter accepts it if the question does, Tab takes a suggestion or the default for editing; an empty line means the default.
    """

    def __init__(self, asked: questionary.Question, question: Question) -> None:
        self.question = question
        self.buffer = asked.application.current_buffer
        self.buffer.on_text_changed += lambda _: self._changed()
        self.suggestions = Suggestions(question.complete, self.buffer) if question.complete else None
        self.buffer.completer = self.suggestions or self.buffer.completer
        self.problem = ""
        self.checking = False
        self.slow = False
        self.keys = KeyBindings()
        self.keys.add("enter")(self._accept)
        self.keys.add("tab")(self._fill)
        self.keys.add("<bracketed-paste>")(self._paste)
        window, output = asked.application.layout.current_window, asked.application.output
        control = window.content
        assert isinstance(control, BufferControl)

        def text_and_menu() -> Dimension:
            rows = control.preferred_height(output.get_size().columns, 99, True, window.get_line_prefix) or 1
            return Dimension(min=rows + len(self.buffer.complete_state.completions if self.buffer.complete_state else []))

        window.height = text_and_menu
        control.menu_position = lambda: 0  # each suggestion replaces the whole line

    def state(self) -> Fragments:
        if self.checking:
            return [("class:quiet", "  Looking …\n")]
        return [("class:problem", f"  ✗ {self.problem}\n")] if self.problem else []

    def _typed(self) -> str:
        return self.question.read(self.buffer.text.strip()) or str(self.question.default)

    def _fill(self, event: KeyPressEvent) -> None:
        if (state := self.buffer.complete_state) and state.completions:
            self.buffer.apply_completion(state.current_completion or state.completions[0])
        elif not self.buffer.text:
            self.buffer.insert_text(str(self.question.default))

    def _paste(self, event: KeyPressEvent) -> None:
        """An answer is one line: what is copied with the end of its line, or in several, becomes one."""
        self.buffer.insert_text(" ".join(filter(None, map(str.strip, event.data.splitlines()))))

    def _accept(self, event: KeyPressEvent) -> None:
        if self.checking:
            return
        answer = self._typed()
        checked = _CHECKS.submit(self.question.problem, answer)
        wait([checked], timeout=AT_ONCE_SECONDS)
        self.slow = self.checking = not checked.done()
        if self.slow:  # a network or a disk is asked: the keys stay alive meanwhile
            event.app.create_background_task(self._later(event.app, answer, checked))
        else:
            self._conclude(event.app, answer, checked)

    async def _later(self, app: Application[Any], answer: str, checked: Future[str | None]) -> None:
        await asyncio.wait([asyncio.wrap_future(checked)])
        self._conclude(app, answer, checked)

    def _conclude(self, app: Application[Any], answer: str, checked: Future[str | None]) -> None:
        self.checking = False
        if answer != self._typed():  # it was changed meanwhile: what is on screen is not what was checked
            app.invalidate()
            return
        self.problem = checked.result() or ""
        app.invalidate()
        if not self.problem:
            app.exit(result=answer)

    def _changed(self) -> None:
        if self.problem:  # what was said about the old text is said about the new one, or taken back
            looks = self.slow or self.question.complete is not None  # at a disk or a network, which a key must not wait for
            self.problem = "" if looks else self.question.problem(self._typed()) or ""
        if self.suggestions:
            self.suggestions.refresh()


class Suggestions(Completer):
    """What `complete` finds for the text of a buffer, looked up in a thread once typing pauses: keys never wait for a disk or a network."""

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
        found = [candidate for candidate in self._complete(text) if candidate != text][:MOST_SUGGESTIONS]
        if text == self._buffer.text:
            self.found = found
            if app and app.loop:
                with suppress(RuntimeError):  # the question was answered meanwhile: its loop is closed
                    app.loop.call_soon_threadsafe(self._buffer.start_completion, context=app.context)
