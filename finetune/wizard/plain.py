"""The same questions as numbered lines: for TERM=dumb, screen readers and anyone who passes --plain.

STEP 0: Approach
What would you like to do?
  1. Fine-tuning: teach a model your task with examples
  2. Distillation: make a small model imitate a big one
Number [1]:
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from getpass import getpass
from typing import TYPE_CHECKING

from finetune.wizard.layout import spelled, wrap
from finetune.wizard.prompter import Check, Choice, Complete, Fragments, GoBack, anything, drawn, plain, verdict

if TYPE_CHECKING:
    from rich.console import RenderableType


class PlainPrompter:
    """Reads one line per question from stdin; `back` goes back and `?` tells more."""

    def __init__(self, on_question: Callable[[], None] = lambda: None) -> None:
        self._on_question = on_question
        self.can_go_back = False
        for stream in (sys.stdin, sys.stdout):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a letter that a terminal does not know costs nobody the answers so far

    def step(self, number: int | None, title: str) -> None:
        _print(f"\n{title}" if number is None else f"\nSTEP {number}: {title}")

    def show(self, picture: RenderableType) -> None:
        _print(drawn(picture, shutil.get_terminal_size().columns))

    def note(self, text: str | Fragments) -> None:
        words = text if isinstance(text, str) else "".join("learned: " if part.startswith("▌") else part for _, part in text)
        _print(plain(wrap([("", words)], shutil.get_terminal_size().columns)))

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        _print(f"{text} ...")
        yield

    def select(self, key: str, question: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str:
        numbers = {str(at): choice for at, choice in enumerate(choices, 1)}
        start = next((number for number, choice in numbers.items() if choice.value == default), "1")
        _print(question)
        for number, choice in numbers.items():
            _print(f"  {number}. {choice.title}{': ' + choice.note if choice.note else ''}")

        def known(text: str) -> str | None:
            return None if text in numbers else f"Type a number from 1 to {len(numbers)}."

        return numbers[self._line("Number", start, known, help, more)].value

    def text(
        self, key: str, question: str, default: str, validate: Check = anything, help: str = "", more: str = "", complete: Complete = None
    ) -> str:
        return self._line(question, default, validate, help, more)

    def confirm(self, key: str, question: str, default: bool, help: str = "", more: str = "") -> bool:
        def yes_or_no(text: str) -> str | None:
            return None if text.lower() in ("y", "yes", "n", "no") else "Type yes or no."

        return self._line(question, "yes" if default else "no", yes_or_no, help, more).lower().startswith("y")

    def secret(self, key: str, question: str, help: str = "") -> str:
        if help:
            _print(help)
        return getpass(f"{question} (not shown): ").strip()

    def mark(self) -> int:
        return 0

    def erase_to(self, mark: int) -> None:
        _print("(back)")

    def _line(self, question: str, default: str, validate: Check, help: str, more: str) -> str:
        if help:
            _print(help)
        while True:
            _print(f"{question} [{default}]: " if default else f"{question}: ", end="")
            self._on_question()
            try:
                text = input().strip()
            except EOFError:
                raise KeyboardInterrupt from None
            if text == "back" and self.can_go_back:
                raise GoBack
            if text == "?":
                _print(more or help or "Press Enter for the answer in brackets.")
                continue
            answer = text or default
            problem = verdict(validate, answer)
            if problem is None:
                return answer
            _print(problem)


def _print(text: str, end: str = "\n") -> None:
    print(plain(spelled([("", text)])), end=end, flush=True)
