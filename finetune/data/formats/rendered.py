"""Chats that somebody wrote into one text with the markers of a chat format: turns again, which the model's own template writes.

{"text": "### Human: Hi### Assistant: Hello!"}                                            # Guanaco
{"text": "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello!<|im_end|>"}       # ChatML

A text among them that has no such markers is learned as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

from finetune.data.formats.cells import Message, as_text, find_column, is_blank, is_empty
from finetune.data.formats.prompt_completion import PromptCompletion
from finetune.data.formats.styles import CHATS, Style, chat, is_answered, style_of
from finetune.data.formats.text import ANSWERS, NAMES, SHOWN, SURE_LABELS, Text
from finetune.data.rows import AFTER, NO_CHAT, RowProblem
from finetune.system.shell import quoted

AS_IT_IS = "To learn the text as it is, markers included: --set {named}"
AS_TEXT = "Texts in column `{column}` without such markers are no chats: they are read as plain text"


class Rendered:
    name = "rendered"
    title = "chats in text"
    summary = "text with the turns of a chat in ChatML, Llama, Gemma, Alpaca, Guanaco, Vicuna and the like"
    order = 55

    def __init__(self, column: str, style: Style) -> None:
        self.columns: tuple[str, ...] = (column,)
        self.style = style
        named = quoted(f"dataset.columns.text={column}")
        self.note = f"{CHATS.format(column=column[:SHOWN], style=style.name)} {AS_IT_IS.format(named=named)}"

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Rendered | None:
        labelled, named = Text.matches(columns, sample), find_column(columns, *NAMES)
        if isinstance(labelled, PromptCompletion) and find_column([labelled.completion], *ANSWERS, *SURE_LABELS):
            return None  # it is the label that is learned; a category may sort chats too
        tried = (cls.of(column, sample) for column in (columns if named is None else [named]))
        return next(filter(None, tried), None)

    @classmethod
    def of(cls, column: str, sample: Sequence[dict[str, Any]], *, answered: bool = True) -> Rendered | None:
        """Of this column, if it has such chats, which need an answer if they are to be `answered` already."""
        style = style_of([row[column] for row in sample if not is_empty(row.get(column))], answered=answered)
        return None if style is None else cls(column, style)

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        """The turns, or the text; raises RowProblem for a text with such markers that is no chat. Blank text is left out, as elsewhere."""
        column = self.columns[0]
        text = as_text(row.get(column), column)
        if not (messages := _turns(self.style, text)):
            raise RowProblem(f"column {column} {NO_CHAT}")
        return [{**turn} for turn in messages]

    def remarks(self, row: dict[str, Any]) -> Iterator[str]:
        said = self.to_messages(row)[0]
        if said["role"] == "text" and not is_blank(said):
            yield AS_TEXT.format(column=self.columns[0][:SHOWN])

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """What follows the last answer."""
        for turn in takewhile(lambda turn: turn["role"] == "user", reversed(self.to_messages(row))):
            yield f"{self.columns[0]} {AFTER}", turn["content"]


@lru_cache(maxsize=1)  # what a row leaves out is asked for right after its turns
def _turns(style: Style, text: str) -> list[Message]:
    """Of a text in this style or another one, or the text itself; none if it has markers of this one, and is no chat."""
    found = style.turns(text, strictly=False)
    if not found and style.marker.search(text):
        return []
    return found if is_answered(found) else chat(text) or found or [{"role": "text", "content": text}]
