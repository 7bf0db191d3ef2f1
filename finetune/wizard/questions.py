"""The three kinds of question, as pieces of an inline application: pick one of a list, yes or no, type a line.

    part = pick_one([Choice("lora", "LoRA")], default="lora", width=lambda: 80, height=lambda: 12)
    part.body, part.keys           # what wizard/terminal.py puts between heading and help

Each ends the application with its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, Window
from prompt_toolkit.layout.processors import AfterInput, BeforeInput, ConditionalProcessor, PasswordProcessor

from finetune.wizard.completion import Suggestions
from finetune.wizard.layout import columns_fit, spelled, wrap
from finetune.wizard.prompter import Choice, Complete, Fragments, Validate, plain, verdict

MOST_CHOICES_SHOWN = 12
AT_ONCE_SECONDS = 0.1
_CHECKS = ThreadPoolExecutor(1, thread_name_prefix="check-answer")

Handler = Callable[[KeyPressEvent], None]


@dataclass
class Part:
    """`beside` stands next to the question, `state` above the help; `typed` is the line, if there is one."""

    keys: KeyBindings
    body: list[Window] = field(default_factory=list)
    beside: Callable[[], Fragments] = list
    state: Callable[[], Fragments] = list
    typed: Buffer | None = None
    how: str = ""


def pick_one(choices: Sequence[Choice], default: str, width: Callable[[], int], height: Callable[[], int]) -> Part:
    """Ends with the value of a choice; arrows, digits, Home and End move."""
    position = next((at for at, choice in enumerate(choices) if choice.value == default), 0)
    keys = KeyBindings()

    def go(to: Callable[[int], int]) -> Handler:
        def handler(event: KeyPressEvent) -> None:
            nonlocal position
            position = to(position) % len(choices)

        return handler

    for names, move in ((("down", "j", "c-n"), lambda at: at + 1), (("up", "k", "c-p"), lambda at: at - 1)):
        for name in names:
            keys.add(name)(go(move))
    keys.add("home")(go(lambda at: 0))
    keys.add("end")(go(lambda at: -1))
    for number in range(min(9, len(choices))):
        keys.add(str(number + 1))(go(lambda at, number=number: number))  # type: ignore[misc]
    keys.add("enter")(lambda event: event.app.exit(result=choices[position].value))

    def listed() -> Fragments:
        side_by_side = columns_fit([(choice.title, choice.note) for choice in choices], width() - 3)
        widest = max(len(choice.title) for choice in choices)
        lines: Fragments = []
        for at, choice in enumerate(choices):
            here = at == position
            lines += [("class:pointer", "❯ "), ("[SetCursorPosition]", "")] if here else [("", "  ")]
            lines += [("class:chosen" if here else "", choice.title[: width() - 3])]
            if side_by_side and choice.note:
                lines += [("class:quiet", " " * (widest - len(choice.title) + 2) + choice.note)]
            lines += [("", "\n")]
            if here and not side_by_side and choice.note:
                lines += [*wrap([("class:quiet", "    " + choice.note)], width()), ("", "\n")]
        return lines[:-1]

    def rows() -> int:
        return min(plain(listed()).count("\n") + 1, MOST_CHOICES_SHOWN, height())

    control = FormattedTextControl(lambda: FormattedText(spelled(listed())), focusable=True, show_cursor=False)
    return Part(keys, [Window(control, dont_extend_height=True, height=rows)], how="↑↓ choose")


def yes_or_no(default: bool) -> Part:
    """Ends with True or False; y, n and the arrows move, Enter answers."""
    answer = default
    keys = KeyBindings()

    def say(value: bool | None) -> Handler:
        def handler(event: KeyPressEvent) -> None:
            nonlocal answer
            answer = (not answer) if value is None else value

        return handler

    for names, value in (("yY", True), ("nN", False), (("left", "right", "up", "down"), None)):
        for name in names:
            keys.add(name)(say(value))
    keys.add("enter")(lambda event: event.app.exit(result=answer))

    def both() -> Fragments:
        no, yes = (" No ", "[Yes]") if answer else ("[No]", " Yes ")
        return [("class:quiet" if answer else "class:chosen", no), ("", " "), ("class:chosen" if answer else "class:quiet", yes)]

    return Part(keys, beside=both, how="y or n")


def type_a_line(default: str, validate: Validate, complete: Complete | None, width: Callable[[], int], *, hidden: bool = False) -> Part:
    """Ends with a line that `validate` accepts; empty means `default`. Tab takes a suggestion, or the default for editing."""
    line = _Line(default, validate, complete)
    keys = KeyBindings()
    keys.add("enter")(line.accept)

    @keys.add("tab")
    def _fill(event: KeyPressEvent) -> None:
        if line.suggestions and line.suggestions.found:
            line.suggestions.take()
        elif not line.buffer.text and not hidden:
            line.buffer.insert_text(default)

    processors: list[Any] = [
        BeforeInput(FormattedText(spelled([("class:pointer", "❯ ")]))),
        ConditionalProcessor(AfterInput([("class:quiet", default)]), Condition(lambda: not line.buffer.text)),
    ]
    if hidden:
        processors.insert(0, PasswordProcessor())
    body = [Window(BufferControl(line.buffer, input_processors=processors), dont_extend_height=True, wrap_lines=True)]
    if suggestions := line.suggestions:
        keys.add("down")(lambda event: suggestions.move(1))
        keys.add("up")(lambda event: suggestions.move(-1))
        body.append(Window(FormattedTextControl(lambda: suggestions.lines(width())), dont_extend_height=True))
    return Part(keys, body, state=line.state, typed=line.buffer)


class _Line:
    """The text so far, what may become of it, and what is wrong with it."""

    def __init__(self, default: str, validate: Validate, complete: Complete | None) -> None:
        self.default, self.validate = default, validate
        self.buffer = Buffer(multiline=False, on_text_changed=lambda _: self._changed())
        self.suggestions = Suggestions(complete, self.buffer) if complete else None
        self.problem = ""
        self.checking = False
        self.slow = False

    def state(self) -> Fragments:
        if self.checking:
            return [("class:quiet", "  Looking …\n")]
        return [("class:problem", f"  ✗ {self.problem}\n")] if self.problem else []

    def accept(self, event: KeyPressEvent) -> None:
        if self.checking:
            return
        picked = self.suggestions.picked if self.suggestions else None
        answer = (picked or self.buffer.text).strip() or self.default
        checked = _CHECKS.submit(verdict, self.validate, answer)
        wait([checked], timeout=AT_ONCE_SECONDS)
        self.slow = not checked.done()
        if self.slow:  # a network or a disk is asked: the keys stay alive meanwhile
            self.checking = True
            event.app.create_background_task(self._later(event.app, answer, checked))
        else:
            self._conclude(event.app, answer, checked)

    async def _later(self, app: Application[Any], answer: str, checked: Future[str | None]) -> None:
        await asyncio.wait([asyncio.wrap_future(checked)])
        self.checking = False
        self._conclude(app, answer, checked)

    def _conclude(self, app: Application[Any], answer: str, checked: Future[str | None]) -> None:
        self.problem = checked.result() or ""
        app.invalidate()
        if not self.problem:
            app.exit(result=answer)

    def _changed(self) -> None:
        if self.problem:  # what was said about the old text is said about the new one, or taken back
            self.problem = "" if self.slow else verdict(self.validate, self.buffer.text.strip() or self.default) or ""
        if self.suggestions:
            self.suggestions.refresh()
