"""Instruction, optional input and output, as in Alpaca.

{"instruction": "Translate to French.", "input": "Good day", "output": "Bonjour"}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.formats.cells import Message, as_answer, as_text, find_column, optional_text


class Instruction:
    name = "instruction"
    title = "instruction and output"
    summary = "instruction, output, and input if there is one (Alpaca)"
    order = 40

    def __init__(self, instruction: str, given: str | None, output: str, system: str | None) -> None:
        self.instruction, self.given, self.output, self.system = instruction, given, output, system
        self.columns = tuple(column for column in (system, instruction, given, output) if column is not None)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Instruction | None:
        instruction = find_column(columns, "instruction", "instructions")
        output = find_column(columns, "output", "response", "completion", "answer", "outputs")
        if instruction is None or output is None:
            return None
        given = find_column(columns, "input", "context", "inputs")
        return cls(instruction, given, output, find_column(columns, "system", "system_prompt"))

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        asked = "\n\n".join([as_text(row.get(self.instruction), self.instruction), *optional_text(row, self.given)])
        answer = as_answer(row.get(self.output), self.output)
        system: list[Message] = [{"role": "system", "content": text} for text in optional_text(row, self.system)]
        return [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
