"""Preference pairs: the model learns the chosen answer; the rejected one is left out.

{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}                  # also lists of messages
{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "..."}       # a whole conversation as text
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from finetune.data.formats.cells import Message, as_answer, find_column
from finetune.data.formats.messages import left_out, read_messages, read_prompt
from finetune.data.rows import RowProblem

SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class Preference:
    name = "preference"
    title = "preference pairs"
    summary = "chosen, rejected, and prompt if there is one; only the chosen answer is used"
    order = 20

    def __init__(self, prompt: str | None, chosen: str) -> None:
        self.prompt, self.chosen = prompt, chosen
        self.columns = tuple(column for column in (prompt, chosen) if column is not None)
        self.note = f"Only the chosen answer of each pair (column {chosen}) is used for training."

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Preference | None:
        chosen = find_column(columns, "chosen")
        if chosen is None or find_column(columns, "rejected") is None:
            return None
        return cls(find_column(columns, "prompt", "question", "instruction"), chosen)

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        chosen = row.get(self.chosen)
        if isinstance(chosen, list):
            answer = read_messages(chosen, self.chosen)
        elif self.prompt is None:
            answer = self._spoken(as_answer(chosen, self.chosen))
        else:
            answer = [{"role": "assistant", "content": as_answer(chosen, self.chosen)}]
        if answer[-1]["role"] != "assistant" or not answer[-1]["content"].strip():
            raise RowProblem(f"column {self.chosen} does not end with an answer")
        if len(answer) > 1 or self.prompt is None:  # the conversation is already complete
            return answer
        return [*read_prompt(row.get(self.prompt), self.prompt), *answer]

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Fields of messages that are not trained on."""
        return left_out(row.get(self.chosen), self.chosen)

    def _spoken(self, text: str) -> list[Message]:
        opening, *said = SPEAKER.split(text)
        if opening.strip() or not said:
            raise RowProblem(f"column {self.chosen} is not a Human/Assistant conversation, and there is no prompt column")
        speakers = {"Human": "user", "Assistant": "assistant"}
        return [{"role": speakers[who], "content": what} for who, what in zip(said[::2], said[1::2], strict=True)]
