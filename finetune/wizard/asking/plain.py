"""The same questions as numbered lines: for TERM=dumb, screen readers and anyone who passes --plain.

STEP 0: Approach
What would you like to do?
  1. Fine-tuning: teach a model your task with examples
  2. Distillation: train a small model to imitate a large one
Number [1]:
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from getpass import getpass
from typing import TYPE_CHECKING

from finetune.wizard.asking.layout import spelled, wrap
from finetune.wizard.asking.prompter import Fragments, GoBack, Prompter, Question, drawn, explanation, plain

if TYPE_CHECKING:
    from rich.console import RenderableType


class PlainPrompter(Prompter):
    """Reads one line per question from stdin; `back` goes back and `?` shows help."""

    in_words = True

    def __init__(self, on_question: Callable[[], None] = lambda: None) -> None:
        self._on_question = on_question
        for stream in (sys.stdin, sys.stdout):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a character that the terminal lacks must not cost the answers so far

    def step(self, number: int | None, title: str) -> None:
        _print(f"\n{title}" if number is None else f"\nSTEP {number}: {title}")

    def show(self, picture: RenderableType) -> None:
        _print(drawn(picture, shutil.get_terminal_size().columns))

    def note(self, text: str | Fragments) -> None:
        words = text if isinstance(text, str) else "".join("learned: " if part.startswith("▌") else part for _, part in text)
        _say(words)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        _print(f"{text} ...")
        yield

    def ask(self, question: Question) -> str | bool:
        if question.secret:
            if question.help:
                _say(question.help)
            return getpass(f"{question.text} (not shown): ").strip()
        if isinstance(question.default, bool):
            words = replace(question, default="yes" if question.default else "no", check=_yes_or_no)
            return self._line(words, question).lower().startswith("y")
        if not question.choices:
            return self._line(question)
        numbers = {str(at): choice for at, choice in enumerate(question.choices, 1)}
        _say(question.text)
        for number, choice in numbers.items():
            _say(f"  {number}. {choice.title}{': ' + choice.note if choice.note else ''}")

        def known(text: str) -> str | None:
            return None if text in numbers else f"Type a number from 1 to {len(numbers)}."

        start = next((number for number, choice in numbers.items() if choice.value == question.default), "1")
        return numbers[self._line(replace(question, text="Number", default=start, choices=(), check=known), question)].value

    def erase_to(self, mark: int) -> None:
        _print("(back)")

    def _line(self, question: Question, asked: Question | None = None) -> str:
        """A line that answers `question`; `asked` is what a person knows it as, where the answer is a number or a word for it."""
        if question.help:
            _say(question.help)
        while True:
            default = f" [{question.default}]:" if question.default else "" if question.text.endswith("?") else ":"
            _print(f"{question.text}{default} ", end="")
            self._on_question()
            try:
                text = input().strip()
            except (EOFError, OSError, KeyboardInterrupt):  # OSError: of a terminal that is gone
                with suppress(OSError):
                    _print("")  # what is said next begins a line
                raise KeyboardInterrupt from None
            if text == "back" and self.can_go_back:
                raise GoBack
            if text == "?":
                self.note(explanation(asked or question))
                continue
            answer = question.read(text) or str(question.default)
            problem = question.problem(answer)
            if problem is None:
                return answer
            _say(problem)


def _yes_or_no(text: str) -> str | None:
    return None if text.lower() in ("y", "yes", "n", "no") else "Type yes or no."


def _say(text: str) -> None:
    """In lines that end between words."""
    _print(plain(wrap([("", text)], shutil.get_terminal_size().columns, to_copy=True)))


def _print(text: str, end: str = "\n") -> None:
    print(plain(spelled([("", text)])), end=end, flush=True)
