"""Instruction, optional input and output, as in Alpaca; a system text and earlier turns where there are columns of them.

{"instruction": "Translate to French.", "input": "Good day", "output": "Bonjour", "history": [["Hi", "Hello!"]]}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from finetune.data.formats.beside import NOTHING, Beside
from finetune.data.formats.cells import Message, after_the_first, as_answer, as_text, find_column, joined, optional_text
from finetune.data.formats.prompt_completion import instruction_of
from finetune.data.formats.turns import rest_of, user, with_json


class Instruction:
    name = "instruction"
    title = "instruction and output"
    summary = "instruction, output, and input if there is one (Alpaca)"
    order = 40

    def __init__(self, instruction: str, given: str | None, output: str, beside: Beside = NOTHING) -> None:
        self.instruction, self.given, self.output, self.beside = instruction, given, output, beside
        self.columns = beside.around(instruction, given, output)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Instruction | None:
        instruction = instruction_of(columns)
        output = find_column(columns, "output", "response", "completion", "answer", "outputs", "targets", "target")
        if instruction is None or output is None:
            return None
        given = find_column(
            columns, "input", "context", "inputs", *(["source", "src"] if find_column([output], "target", "targets") else [])
        )
        if given is None:
            given = rest_of(instruction, find_column(columns, "question", "query", "passage"), sample)
        return cls(instruction, given, output, Beside.find(columns, sample, [instruction, given, output], reasoning=True))

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        row = with_json(row, self.instruction, self.given, self.output)
        asked = joined(as_text(row.get(self.instruction), self.instruction), optional_text(row, self.given))
        answer = as_answer(row.get(self.output), self.output)
        return self.beside.before(row, [user(asked), self.beside.answer(row, answer)])

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The answers after the first."""
        return after_the_first(row, self.output)

    def tools(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return self.beside.tools_of(row)
