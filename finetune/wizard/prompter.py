"""Whoever answers the wizard's questions: a person at a terminal, a numbered list, or a script in a test.

    prompter = ScriptedPrompter({"approach": "fine-tuning", "training.epochs": "1"})
    prompter.text("training.epochs", "Epochs", default="3", validate=lambda text: None)      # "1"

A question has a key (its recipe key where there is one), a short name that stays on screen beside the answer, one line of help
and, behind F1, a little more. `GoBack` is raised by a prompter when the person wants the question before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from rich.console import RenderableType

Fragments = list[tuple[str, str]]  # (style, text) pairs; the styles are those of wizard/terminal.py
Check = Callable[[str], "str | None"]  # the sentence that says what is wrong, or None
Complete = Callable[[str], Sequence[str]] | None  # what the text so far may become, where anything is known


class GoBack(Exception):
    """The person wants to answer the question before again."""


@dataclass(frozen=True)
class Choice:
    value: str
    title: str
    note: str = ""


def anything(text: str) -> str | None:
    """Accepts every answer."""
    return None


def verdict(validate: Check, answer: str) -> str | None:
    """What is wrong with an answer; one that cannot even be checked is refused, so that no other answer is lost."""
    try:
        return validate(answer)
    except FinetuneError as error:
        return error.message
    except Exception as error:  # noqa: BLE001
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
        return f"{answer} cannot be used: {reason.rstrip('.')}."


class Prompter(Protocol):
    def step(self, number: int | None, title: str) -> None:
        """A heading: STEP 1 and so on, or only its title."""
        ...

    def note(self, text: str | Fragments) -> None: ...

    def show(self, picture: RenderableType) -> None:
        """Something drawn with rich, such as a table."""
        ...

    def busy(self, text: str) -> AbstractContextManager[None]:
        """Shows `text` while something short goes on."""
        ...

    def select(self, key: str, question: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str: ...

    def text(
        self, key: str, question: str, default: str, validate: Check = anything, help: str = "", more: str = "", complete: Complete = None
    ) -> str: ...

    def confirm(self, key: str, question: str, default: bool, help: str = "", more: str = "") -> bool: ...

    def secret(self, key: str, question: str, help: str = "") -> str:
        """An answer that is never shown, kept or repeated; empty when the person gives none."""
        ...


class Undoable(Prompter, Protocol):
    """What going back needs besides: a prompter that can take back what it drew."""

    can_go_back: bool  # whether there is a question before this one

    def mark(self) -> int:
        """A place on the screen that `erase_to` can return to."""
        ...

    def erase_to(self, mark: int) -> None: ...


class ScriptedPrompter:
    """Answers by key, for tests and demonstrations; a question without an answer and an answer without a question both fail.

    `answers[key]` is the answer, `DEFAULT` for Enter, or a list of them for a question that is asked again; `BACK` in it is Shift+Tab.
    Call `finish()` at the end. `shown` holds all notes, `asked` all keys in order.
    """

    DEFAULT = object()
    BACK = object()

    def __init__(self, answers: dict[str, Any], *, otherwise_default: bool = False) -> None:
        self._answers = {key: list(answer) if isinstance(answer, list) else [answer] for key, answer in answers.items()}
        self._otherwise_default = otherwise_default
        self.can_go_back = False
        self.asked: list[str] = []
        self.defaults: dict[str, Any] = {}
        self.shown: list[str] = []

    def finish(self) -> None:
        unused = [key for key, left in self._answers.items() if left]
        if unused:
            raise AssertionError(f"answers nobody asked for: {', '.join(unused)}")

    def step(self, number: int | None, title: str) -> None:
        self.shown.append(title if number is None else f"STEP {number} {title}")

    def note(self, text: str | Fragments) -> None:
        self.shown.append(plain(text))

    def show(self, picture: RenderableType) -> None:
        self.shown.append(drawn(picture, 80))

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        yield

    def select(self, key: str, question: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str:
        answer = self._next(key, default)
        known = [choice.value for choice in choices]
        if answer not in known:
            raise AssertionError(f"{key}: {answer!r} is not offered; offered: {known}")
        return str(answer)

    def text(
        self, key: str, question: str, default: str, validate: Check = anything, help: str = "", more: str = "", complete: Complete = None
    ) -> str:
        while True:
            answer = str(self._next(key, default))
            problem = verdict(validate, answer)
            if problem is None:
                return answer
            self.shown.append(problem)

    def confirm(self, key: str, question: str, default: bool, help: str = "", more: str = "") -> bool:
        return bool(self._next(key, default))

    def secret(self, key: str, question: str, help: str = "") -> str:
        return str(self._next(key, ""))

    def mark(self) -> int:
        return 0

    def erase_to(self, mark: int) -> None:
        pass

    def _next(self, key: str, default: Any) -> Any:
        self.asked.append(key)
        self.defaults[key] = default
        left = self._answers.get(key)
        if not left:
            if self._otherwise_default and left is None:
                return default
            raise AssertionError(f"no answer (left) for {key!r} (default {default!r}); asked so far: {self.asked}")
        answer = left.pop(0)
        if answer is self.BACK:
            raise GoBack
        return default if answer is self.DEFAULT else answer


def drawn(picture: RenderableType, width: int, *, colour: bool = False) -> str:
    """A rich picture as lines of text, with escape codes only if `colour`."""
    from rich.console import Console

    from finetune.screen.console import AS_IT_IS, THEME

    console = Console(width=width, theme=THEME, color_system="standard" if colour else None, force_terminal=colour, **AS_IT_IS)
    with console.capture() as captured:
        console.print(picture)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


def hint(error: FinetuneError) -> Fragments:
    """The hint of an error on a line of its own, left in one piece: it may hold a command."""
    from finetune.screen.wording import as_typed

    return [("", "\n"), ("class:command", as_typed(error.hint))] if error.hint else []


def plain(text: str | Fragments) -> str:
    """The words of a note, without its styles."""
    return text if isinstance(text, str) else "".join(part for _, part in text)
