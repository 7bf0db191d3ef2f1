"""What all rows have in common. Before an answer: a model that never saw a question without it answers poorly without it.

alike = Alike()
alike.add([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Translate into French: a cat"}, ...])
alike.system, alike.opening     # "Be brief.", "" until there are two rows: then "Translate into French:"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from finetune.data.formats.cells import Message
from finetune.letters import is_unspaced, word_count

FEWEST_WORDS = 3  # of an opening: prompts may begin with the same word by chance
BARE = ("role", "content")  # of a turn without thoughts and calls
FEWEST_ROWS = 8  # of one answer
ONE_ANSWER = "All rows to train on have the same answer, so that is all the model learns to say, whatever it is asked."


class Alike:
    """Rows are added one by one, and not kept."""

    def __init__(self) -> None:
        self._systems: set[str] = set()  # two are enough to know that there is not one
        self._questions, self._begins = 0, ""
        self._tools: list[list[dict[str, Any]]] = []  # likewise
        self._answers: set[str] = set()  # likewise

    def add(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> None:
        """Count the turns of one row, and its tools."""
        if len(self._tools) < 2 and (tools or []) not in self._tools:
            self._tools.append(tools or [])
        if len(self._systems) < 2:
            self._systems.add(messages[0]["content"] if messages[0]["role"] == "system" else "")
        if len(self._answers) < 2:
            answers = [turn for turn in messages if turn["role"] == "assistant"]
            self._answers.add(answers[0]["content"] if len(answers) == 1 and len(answers[0]) == len(BARE) else "")
        question = next((turn["content"] for turn in messages if turn["role"] == "user"), "")
        if not self._questions:
            self._begins = question
        elif not question.startswith(self._begins):
            pairs = zip(self._begins, question, strict=False)
            self._begins = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._questions += 1

    @property
    def system(self) -> str | None:
        """The system prompt of every row, "" if none has one; None where some have one, or not the same."""
        return next(iter(self._systems), "") if len(self._systems) < 2 else None

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools of every row; none where some have none, or others."""
        return self._tools[0] if len(self._tools) == 1 else []

    @property
    def one_answer(self) -> str | None:
        """A sentence where every row has the same answer; None where they differ or are more than one text."""
        return ONE_ANSWER if len(self._answers) == 1 and "" not in self._answers and self._questions >= FEWEST_ROWS else None

    @property
    def opening(self) -> str:
        """The words that every question begins with, "" if they are few."""
        whole = _to_a_sign(self._begins) if is_unspaced(self._begins) else re.split(r"\s+\S*$", self._begins)[0]
        words = whole.strip() if self._questions > 1 else ""
        return words if word_count(words) >= FEWEST_WORDS else ""


def _to_a_sign(text: str) -> str:
    """A text up to its last comma, colon or the like: where there are no spaces, nothing else shows where words end."""
    return text[: max((place for place, sign in enumerate(text, 1) if unicodedata.category(sign)[0] == "P"), default=0)]
