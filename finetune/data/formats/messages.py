"""Chat messages, as OpenAI, ShareGPT and others write them.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
{"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from finetune.data.formats import turns
from finetune.data.formats.beside import NOTHING, Beside
from finetune.data.formats.cells import Message, find_column, is_blank, is_learned
from finetune.data.formats.dialogue import DIALOGUES, SUMMARIES, between_people
from finetune.data.formats.tools import read_tools
from finetune.data.formats.tree import RESTS, is_tree
from finetune.data.rows import NotWanted, RowProblem

ANSWERS = ("completion", "response", "answer", "output")  # to messages that end with a person's words
OF_CLAUDE = "chat_messages"  # in its export
NAMES = ("messages", "conversations", "conversation", "chat", "chat_messages", "dialog", "dialogue", "contents", "mapping")


class Messages:
    name = "messages"
    title = "chat messages"
    summary = "messages (OpenAI) or conversations (ShareGPT), also with tools"
    order = 20

    def __init__(self, messages: str, beside: Beside = NOTHING) -> None:
        self.messages, self.beside = messages, beside
        self.columns = beside.around(messages)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Messages | None:
        there = [found for name in NAMES if (found := find_column(columns, name)) and _has_turns(found, sample)]
        if find_column(columns, "question") and find_column(columns, "answer", "answers"):
            there = [column for column in there if not any(_are_texts(row.get(column)) for row in sample)]  # what is asked about
        if find_column(columns, *SUMMARIES):
            there = [column for column in there if not _is_summed_up(column, sample)]
        if any(find_column(columns, name) for name in ANSWERS):
            there = [column for column in there if any(_ends_with_an_answer(row.get(column)) for row in sample)]  # others are prompts
        column = there[0] if there else None
        if column is None and (found := find_column(columns, "data")) and _has_pairs_of_texts(found, sample):
            column = found  # UltraChat
        return None if column is None else cls(column, Beside.find(columns, sample, [column], history=False))

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        column, said = self.messages, row.get(self.messages)
        exported = is_tree(said) or column.lower() == OF_CLAUDE
        if exported and isinstance(said, list | dict) and not turns.turns_of(said):
            raise NotWanted("the conversation is empty")  # somebody opened one, and asked nothing
        messages = self.beside.before(row, turns.read_messages(said, column))
        if all(turn["role"] != "assistant" or is_blank(turn) for turn in messages):
            raise NotWanted("no question is answered") if exported else RowProblem(f"column {column} has no assistant message")
        if exported and not any(map(is_learned, messages)):
            raise NotWanted(RESTS)
        return messages

    def tools(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Of a column beside the messages, or of a system turn (GLM)."""
        told = self.beside.tools_of(row)
        for turn in turns.turns_of(row.get(self.messages)) if not told else ():
            if isinstance(turn, dict) and "tools" in turn and turns.role_of(turn) == "system":
                told += read_tools(turn["tools"], f"{self.messages}.tools")
        return told

    def remarks(self, row: dict[str, Any]) -> Iterator[str]:
        yield from turns.remarks(row.get(self.messages), self.messages)
        yield from self.beside.remarks(row, self.to_messages(row)) if self.beside.system else ()

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Text inside the messages that is not trained on: other fields, and what comes after the last answer."""
        return turns.left_out(row.get(self.messages), self.messages)


def _ends_with_an_answer(cell: Any) -> bool:
    last = next(reversed(turns.turns_of(cell)), None)
    return last is not None and (not isinstance(last, dict) or turns.role_of(last) not in ("user", "system", "tool", "result"))


def _is_summed_up(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a column beside a summary has what people said; a conversation with a model may have a summary too."""
    return column.strip().lower() in DIALOGUES and any(between_people(row.get(column)) for row in sample)


def _has_turns(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    if column.strip().lower() == "contents" and any(map(_are_texts, (row.get(column) for row in sample))):
        return False  # paragraphs, not turns
    return any(turns.turns_of(row.get(column)) or row.get(column) == [] for row in sample)


def _has_pairs_of_texts(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a column has lists of texts that two say by turns."""
    cells = [row.get(column) for row in sample]
    return bool(cells) and all(isinstance(cell, list) and _are_texts(cell) and len(cell) % 2 == 0 for cell in cells)


def _are_texts(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(text, str) for text in cell)
