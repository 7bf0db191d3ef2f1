"""Chat messages, as OpenAI and as ShareGPT write them.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
{"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from finetune.data.formats.cells import Message, as_text, find_column, optional_text
from finetune.data.rows import RowProblem

ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user"}
ROLES |= {"assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
NAMES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")

WEIGHTLESS = (0, "0", "0.0")  # numbers of a JSON file come as they are spelled
READ = {"weight", "role", "from", "content", "value"}


class Messages:
    name = "messages"
    title = "chat messages"
    summary = "messages (OpenAI) or conversations (ShareGPT)"
    order = 10

    def __init__(self, messages: str, system: str | None = None) -> None:
        self.messages, self.system = messages, system
        self.columns = (messages,) if system is None else (system, messages)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Messages | None:
        column = find_column(columns, *NAMES)
        if column is None or not any(isinstance(_parsed(row.get(column)), list) for row in sample):
            return None
        return cls(column, find_column(columns, "system", "system_prompt"))

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        column = self.messages
        turns = read_messages(_parsed(row.get(column)), column)
        if turns[0]["role"] != "system":
            turns[:0] = [{"role": "system", "content": text} for text in optional_text(row, self.system)]
        if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
            raise RowProblem(f"column {column} has no assistant message")
        return turns

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Text inside the messages that is not trained on: other fields, and what comes after the last answer."""
        return left_out(_parsed(row.get(self.messages)), self.messages)


def left_out(value: Any, column: str) -> Iterator[tuple[str, Any]]:
    answered = False
    for turn in reversed(value if isinstance(value, list) else []):
        if isinstance(turn, dict):
            answered = answered or ROLES.get(str(turn.get("role", turn.get("from"))).lower()) == "assistant"
            if not answered:
                yield f"{column} after the last answer", turn.get("content", turn.get("value"))
            yield from ((f"{column}.{field}", text) for field, text in turn.items() if field not in READ)


def read_messages(value: Any, column: str) -> list[Message]:
    """Turns with the roles system, user and assistant; raises RowProblem for anything a chat template cannot render."""
    if not isinstance(value, list) or not value:
        raise RowProblem(f"column {column} has no list of messages")
    return [_read_message(turn, column) for turn in value]


def read_prompt(value: Any, column: str) -> list[Message]:
    """The turns before the answer: a list of messages, or a text that the user wrote."""
    return read_messages(value, column) if isinstance(value, list) else [{"role": "user", "content": as_text(value, column)}]


def _read_message(turn: Any, column: str) -> Message:
    if not isinstance(turn, dict):
        raise RowProblem(f"column {column} has a message that is not an object")
    said_by = turn.get("role", turn.get("from"))
    role = ROLES.get(str(said_by).lower())
    if role is None or turn.get("tool_calls") or turn.get("function_call"):
        what = "tool calls" if role else f"a message of {said_by!r}"
        raise RowProblem(f"column {column} has {what}; only text of system, user and assistant can be trained on")
    if turn.get("weight") in WEIGHTLESS and role == "assistant":
        raise RowProblem(f"column {column} has a message of weight 0, but every answer is trained on; leave this row out")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "".join(_part(part, column) for part in content)
    return {"role": role, "content": as_text(content, f"{column}.content")}


def _part(part: Any, column: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text":
        return as_text(part.get("text"), f"{column}.content.text")
    raise RowProblem(f"column {column} has a message with images or audio; only text can be trained on")


def _parsed(value: Any) -> Any:
    """A CSV can only carry messages as a JSON string; `datasets` turns a list of messages into one column per field."""
    if isinstance(value, dict) and value and all(isinstance(cells, list) for cells in value.values()):
        return [dict(zip(value, cells, strict=False)) for cells in zip_longest(*value.values())]
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
