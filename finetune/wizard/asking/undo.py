"""Going back: the conversation is a function that is run again with the answers given so far.

    rewind = Rewind(prompter)
    recipe = rewind.run(lambda prompter: converse(prompter))

Questions that have an answer are not asked again, so a second run stops at the first one without: after Shift+Tab that is the
previous question, with the old answer as its default. Steps therefore need no memory and no idea of "back".

    Rewind(prompter, earlier=answers, keep=write)      # continues with the answers of another session; `write` gets all after each new one,
                                                       # and beside them those that were taken back, which are defaults when asked again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.wizard.asking.prompter import Fragments, GoBack, Prompter, Question

if TYPE_CHECKING:
    from rich.console import RenderableType

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What was given to a question, and what Enter would have given."""

    question: str
    given: str | bool
    default: str | bool

    def stands(self, question: Question) -> bool:
        """Whether it still answers the question; a default that was only accepted does not outlive a better default."""
        return (self.given != self.default or question.default == self.default) and question.problem(self.given) is None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Rewind(Prompter):
    """A prompter around another one that remembers answers."""

    def __init__(
        self,
        prompter: Prompter,
        earlier: Mapping[str, Answer] | None = None,
        keep: Callable[[Mapping[str, Answer], Mapping[str, Answer]], None] = lambda answers, taken_back: None,
        taken_back: Mapping[str, Answer] | None = None,
    ) -> None:
        self._prompter, self.in_words = prompter, prompter.in_words
        self._keep = keep
        self._answers: dict[str, Answer] = dict(earlier or {})
        self._not_shown = set(self._answers)  # of an earlier session: not on this screen yet
        self._earlier: dict[str, Answer] = dict(taken_back or {})
        self._marks: dict[str, int] = {}
        self._steps: dict[str, int | None] = {}
        self._trail: list[str] = []
        self._pending: list[Callable[[], None]] = []
        self._mark = 0
        self._step: int | None = None

    def run(self, conversation: Callable[[Prompter], Result]) -> Result:
        while True:
            self._trail.clear()
            self._pending.clear()
            try:
                result = conversation(self)
            except GoBack:
                if self._trail:
                    last = self._trail[-1]
                    self._answers.pop(last)
                    self._prompter.erase_to(self._marks.pop(last, self._mark))
            else:
                self._draw_pending()
                return result

    def reopen(self, step: int) -> None:
        """Ask the questions of one step again; the other answers stand."""
        for key in [key for key, its_step in self._steps.items() if its_step == step]:
            self._answers.pop(key, None)
        self._marks.clear()

    def forget(self, key: str) -> None:
        """Ask this question again, as if for the first time."""
        self._answers.pop(key, None)
        self._earlier.pop(key, None)

    def ask(self, question: Question) -> str | bool:
        if question.secret:
            return self._prompter.ask(question)
        key, known = question.key, self._answers.get(question.key)
        if known and known.stands(question) and key in self._not_shown:
            self._tell(question, known)
        elif known and known.stands(question):
            self._pending.clear()  # it was said when the question was asked
        else:
            self._mark = self._prompter.mark()
            self._draw_pending()
            self._prompter.can_go_back = bool(self._trail)
            earlier = self._earlier.get(key)
            start = earlier.given if earlier and earlier.stands(question) else question.default
            known = Answer(question.text, self._prompter.ask(replace(question, default=start)), question.default)
            self._remember(key, known)
            self._answers.pop(key, None)  # the newest comes last
            self._answers[key] = known
            self._keep(self._answers, {key: answer for key, answer in self._earlier.items() if key not in self._answers})
        self._trail.append(key)
        return known.given

    def _tell(self, question: Question, known: Answer) -> None:
        """Show an answer of an earlier session as if it had just been given."""
        self._mark = self._prompter.mark()
        self._draw_pending()
        self._prompter.recall(question, known.given)
        self._remember(question.key, known)

    def _remember(self, key: str, known: Answer) -> None:
        self._not_shown.discard(key)
        self._earlier[key] = known
        self._marks[key] = self._mark
        self._steps[key] = self._step

    def _draw_pending(self) -> None:
        for draw in self._pending:
            draw()
        self._pending.clear()

    def step(self, number: int | None, title: str) -> None:
        self._step = number
        self._pending.append(lambda: self._prompter.step(number, title))

    def show(self, picture: RenderableType) -> None:
        self._pending.append(lambda: self._prompter.show(picture))

    def note(self, text: str | Fragments) -> None:
        self._pending.append(lambda: self._prompter.note(text))

    def busy(self, text: str) -> AbstractContextManager[None]:
        return self._prompter.busy(text)
