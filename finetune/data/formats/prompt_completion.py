"""A prompt column and a completion column; each contains text or a list of chat messages.

{"prompt": "2 + 2 =", "completion": "4"}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.formats.cells import Message, as_answer, find_column
from finetune.data.formats.messages import read_messages, read_prompt
from finetune.data.rows import RowProblem

PAIRS = [
    (("prompt",), ("completion", "response", "answer", "output")),
    (("source", "src"), ("target", "tgt")),
    (("input", "inputs"), ("output", "outputs", "target", "targets", "response", "completion")),
    (("user",), ("assistant",)),
    (("document", "article", "dialogue", "text"), ("summary", "highlights")),
]


class PromptCompletion:
    name = "prompt_completion"
    title = "prompt and completion"
    summary = "prompt, completion; or a similar pair such as source and target"
    order = 30

    def __init__(self, prompt: str, completion: str) -> None:
        self.columns = (prompt, completion)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> PromptCompletion | None:
        if find_column(columns, "instruction", "instructions") is not None:
            return None  # there, `input` is only a part of the prompt
        for prompts, completions in PAIRS:
            prompt, completion = find_column(columns, *prompts), find_column(columns, *completions)
            if prompt is not None and completion is not None:
                return cls(prompt, completion)
        return None

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        prompt, completion = self.columns
        before, answered = read_prompt(row.get(prompt), prompt), row.get(completion)
        if not isinstance(answered, list):
            return [*before, {"role": "assistant", "content": as_answer(answered, completion)}]
        after = read_messages(answered, completion)
        if len(after) != 1 or after[0]["role"] != "assistant":
            raise RowProblem(f"column {completion} must contain exactly one assistant message")
        return [*before, *after]
