"""Who answers the wizard's questions: a person at a terminal, a numbered list, or a script in a test.

    prompter = ScriptedPrompter({"approach": "fine-tuning", "training.epochs": "1"})
    prompter.text("training.epochs", "Epochs", default="3")      # "1"

A `Question` has a key (its recipe key where there is one), a short name that stays on screen next to the answer, one line of help
and, behind F1, a little more. A prompter answers it in `ask`; `select`, `text`, `confirm` and `secret` make one and ask it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.errors import FinetuneError, without_secrets
from finetune.wizard.help_texts import more_about

if TYPE_CHECKING:
    from rich.console import RenderableType

Fragments = list[tuple[str, str]]  # (style, text) pairs; the styles are those of terminal.py
Check = Callable[[str], "str | None"]  # the sentence that says what is wrong, or None
Complete = Callable[[str], Sequence[str]] | None  # completions of the text so far, where anything is known
Read = Callable[[str], str]  # the answer that a line of text means

HOW_TO_CHOOSE = "The arrow keys move, Enter takes the line that is marked."
HOW_TO_DECIDE = "y is yes, n is no; Enter takes the answer shown."
HOW_TO_TYPE = "Type an answer; Enter alone takes the one shown in grey, and Tab lets you edit it."


class GoBack(Exception):
    """The person wants to answer the previous question again."""


@dataclass(frozen=True)
class Choice:
    value: str
    title: str
    note: str = ""


def anything(text: str) -> str | None:
    """Accepts every answer."""
    return None


@dataclass(frozen=True)
class Question:
    """Yes or no if the default is a bool, one of `choices` if there are any, else a line of text.

    `help` is shown below the question, `more` appears with F1. The answer to a `secret` question is never shown, kept or repeated.
    """

    key: str
    text: str
    default: str | bool
    choices: Sequence[Choice] = ()
    check: Check = anything
    help: str = ""
    more: str = ""
    complete: Complete = None
    read: Read = str
    secret: bool = False

    def problem(self, answer: Any) -> str | None:
        """What is wrong with an answer; one that cannot even be checked is refused, so that no other answer is lost."""
        if self.choices:
            known = [choice.value for choice in self.choices]
            return None if answer in known else f"{answer!r} is not offered; offered: {known}"
        try:
            return self.check(answer)
        except FinetuneError as error:
            return error.message
        except Exception as error:  # noqa: BLE001
            reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
            return f"{answer} is not valid: {without_secrets(reason).rstrip('.')}."


class Prompter(ABC):
    """Asks questions and shows what belongs to them."""

    can_go_back = False  # whether there is a question before this one
    in_words = False  # whether pictures must be words: a screen reader may read them

    @abstractmethod
    def step(self, number: int | None, title: str) -> None:
        """A heading: STEP 1 and so on, or only its title."""

    @abstractmethod
    def note(self, text: str | Fragments) -> None:
        """A remark between two questions."""

    @abstractmethod
    def show(self, picture: RenderableType) -> None:
        """Something drawn with rich, such as a table."""

    @abstractmethod
    def busy(self, text: str) -> AbstractContextManager[None]:
        """Shows `text` during short work."""

    @abstractmethod
    def ask(self, question: Question) -> str | bool:
        """The answer; raises GoBack."""

    def recall(self, question: Question, answer: str | bool) -> None:
        """Show an answer that was given in an earlier session."""
        self.note(f"{question.text}: {answer_text(question, answer)}")

    def mark(self) -> int:
        """A place on the screen that `erase_to` can return to."""
        return 0

    def erase_to(self, mark: int) -> None:
        """Take back what was drawn since, where that is possible."""
        return

    def select(self, key: str, text: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str:
        return str(self.ask(Question(key, text, default, choices, help=help, more=more or more_about(key))))

    def text(
        self,
        key: str,
        text: str,
        default: str,
        check: Check = anything,
        help: str = "",
        more: str = "",
        complete: Complete = None,
        read: Read = str,
    ) -> str:
        more = more or more_about(key)
        return str(self.ask(Question(key, text, default, check=check, help=help, more=more, complete=complete, read=read)))

    def confirm(self, key: str, text: str, default: bool, help: str = "", more: str = "") -> bool:
        return bool(self.ask(Question(key, text, default, help=help, more=more or more_about(key))))

    def secret(self, key: str, text: str, help: str = "") -> str:
        return str(self.ask(Question(key, text, "", help=help, more=more_about(key), secret=True)))


class ScriptedPrompter(Prompter):
    """Answers by key, for tests and demonstrations; a question without an answer and an answer without a question both fail.

    `answers[key]` is the answer, `DEFAULT` for Enter, or a list of them for a question that is asked again; `BACK` in it is Shift+Tab.
    Call `finish()` at the end. `shown` lists all notes, `asked` all keys in order.
    """

    DEFAULT = object()
    BACK = object()

    def __init__(self, answers: dict[str, Any], *, otherwise_default: bool = False) -> None:
        self._answers = {key: list(answer) if isinstance(answer, list) else [answer] for key, answer in answers.items()}
        self._otherwise_default = otherwise_default
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

    def ask(self, question: Question) -> str | bool:
        while True:
            answer = self._next(question.key, question.default)
            answer = question.read(answer) if isinstance(answer, str) else answer
            problem = question.problem(answer)
            if problem is None:
                return bool(answer) if isinstance(question.default, bool) else str(answer)
            if question.choices:
                raise AssertionError(f"{question.key}: {problem}")
            self.shown.append(problem)

    def _next(self, key: str, default: str | bool) -> Any:
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
    from finetune.screen.console import AS_IT_IS, NARROWEST, THEME, SafeConsole

    how: dict[str, Any] = {"color_system": "standard" if colour else None, "force_terminal": colour, **AS_IT_IS}
    console = SafeConsole(width=max(NARROWEST, width), theme=THEME, **how)
    with console.capture() as captured:
        console.print(picture)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


def hint(error: FinetuneError, approach: str = "") -> Fragments:
    """The hint of an error on lines of its own; a command in it is left in one piece, so that it can be copied."""
    from finetune.screen.wording import as_typed, command_in
    from finetune.wizard.error_words import in_words

    parts: Fragments = []
    for line in filter(None, as_typed(in_words(error.hint, approach)).split("\n")):
        begins, ends = command_in(line)
        parts += [("class:quiet", f"\n{line[:begins]}"), ("class:command", line[begins:ends]), ("class:quiet", line[ends:])]
    return parts


def explanation(question: Question) -> str:
    """What ? tells about any question: its own words, else its help, and how it is answered."""
    if question.more:
        return question.more
    how = HOW_TO_CHOOSE if question.choices else HOW_TO_DECIDE if isinstance(question.default, bool) else HOW_TO_TYPE
    return "\n".join(filter(None, [question.help, how]))


def answer_text(question: Question, answer: str | bool) -> str:
    """What stays on screen of an answer."""
    if question.secret:
        return "(not shown)" if answer else "(none)"
    if isinstance(answer, bool):
        return "Yes" if answer else "No"
    return next((choice.title for choice in question.choices if choice.value == answer), answer)


def plain(text: str | Fragments) -> str:
    """The words of a note, without its styles."""
    return text if isinstance(text, str) else "".join(part for _, part in text)
