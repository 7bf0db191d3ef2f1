"""Chats that somebody wrote into one text with the markers of a chat format: turns again, which the model's own template writes.

{"text": "### Human: Hi### Assistant: Hello!"}                                            # Guanaco
{"text": "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello!<|im_end|>"}       # ChatML
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from finetune.data.formats.cells import Message, as_text, find_column, is_blank, is_empty, joined
from finetune.data.formats.prompt_completion import PromptCompletion
from finetune.data.formats.text import ANSWERS, NAMES, SHOWN, SURE_LABELS, Text
from finetune.data.rows import AFTER, NO_CHAT, RowProblem
from finetune.system.shell import quoted

BEGINS = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>", "<｜begin▁of▁sentence｜>")  # of a text
ENDS = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>", "[/SYSTEM_PROMPT]"]  # of a turn
ENDS += ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "### End"]  # or of a text
PREAMBLE = re.compile(r"[^#`{}=]{1,2000}")  # before the first marker; not a page or a program in which markers are quoted
SENTENCE_ENDS = (".", "!", "?", ":", "。")
FIRST = 2100  # characters in which the first marker begins
MANY = 0.95  # of the sampled rows are chats, or their column is plain text
FOLLOWS: dict[str, tuple[str, ...]] = {  # who may speak before
    "system": ("",),
    "user": ("", "system", "assistant"),
    "input": ("user",),
    "assistant": ("user", "input"),
    "tool": (),  # calls and results are not read
}
CHATS = (
    "Column `{column}` has chats with markers ({style}). They are read as turns, and written anew as the model expects chats. "
    "To learn the text as it is, markers included: --set {named}"
)


@dataclass(frozen=True)
class Style:
    """The markers before turns: patterns, each with its role (`input` goes on with the user's turn), whose repetitions have a limit.

    Where no turn can contain the tokens that end one, `ends`, all up to them is the turn; elsewhere blanks around it are of the markers.
    A `preamble` before the first marker is a system text. `own` is what the format itself writes at its beginning, for every chat alike.
    """

    name: str
    markers: tuple[tuple[str, str], ...]
    ends: tuple[str, ...] = ()
    preamble: bool = False
    own: str = ""

    @cached_property
    def marker(self) -> re.Pattern[str]:
        # With its group at the end each pattern begins with letters, and `re` looks for these first: up to 50 times as fast.
        return re.compile("|".join(f"{pattern}()" for _, pattern in self.markers), re.MULTILINE)

    def turns(self, text: str) -> list[Message]:
        """The turns of a text, which the two say by turns; none if it is not a chat in this style. Blank turns at its end are left out."""
        text = text.lstrip()
        begun = next((begin for begin in BEGINS if text.startswith(begin)), "")
        text = text[len(begun) :].lstrip()
        found = self.marker.search(text, 0, FIRST)  # most texts have none
        if found is None or not self._is_preamble(text[: found.start()]):
            return []
        preamble = self._without_own(text[: found.start()].rstrip())
        messages: list[Message] = [{"role": "system", "content": preamble}] if preamble else []
        before, marks, closed = "", [*self.marker.finditer(text)], any(end in text for end in self.ends)
        for mark, after in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
            role = self.markers[(mark.lastindex or 1) - 1][0]
            to_end = closed and role == "assistant" and after < len(text)  # or it quotes the next marker
            said = self._said(text[mark.end() : after], to_end=to_end)
            if said is None or before not in FOLLOWS[role] or (role == "system" and messages):
                return []
            if role == "input":
                messages[-1]["content"] = joined(messages[-1]["content"], [said])
            elif role == "system":
                said = self._without_own(said)
                messages += [{"role": role, "content": said}] if said.strip() else []
            else:
                messages.append({"role": role, "content": said})
            before = role
        while messages and is_blank(messages[-1]):
            messages.pop()
        return messages

    def _is_preamble(self, text: str) -> bool:
        """Whether this may stand before the first marker: nothing, or sentences that end there."""
        return not text or (
            self.preamble and PREAMBLE.fullmatch(text) is not None and (text[-1] == "\n" or text.rstrip().endswith(SENTENCE_ENDS))
        )

    def _without_own(self, system: str) -> str:
        return re.sub(rf"\A(?:{self.own})", "", system)

    def _said(self, text: str, *, to_end: bool) -> str | None:
        """A turn without the tokens that end it; None if there is one inside, or it is `to_end` with one and does not."""
        whole, ended = text.rstrip(), False
        for ends in (ENDS, self.ends):  # one may end the text behind the turn
            if end := next((end for end in ends if whole.endswith(end)), None):
                text, ended = whole[: -len(end)], end in self.ends
                whole = text.rstrip()
        said = text if ended else whole
        return None if (to_end and not ended) or any(end in said for end in self.ends) else said


def by(marker: str, *, user: str = "user", assistant: str = "assistant", system: str = "system") -> tuple[tuple[str, str], ...]:
    """The markers that differ by who speaks."""
    return tuple((role, marker.replace("{}", name)) for role, name in (("system", system), ("user", user), ("assistant", assistant)))


LINE = r"\r?\n"
BLANKS = r" ?(?:\r?\n){0,3}"  # behind a marker; more are of the text, as the indent of a line is
STYLES = (
    Style("ChatML", by(rf"<\|im_start\|>{{}}{LINE}"), ends=("<|im_end|>",)),
    Style(
        "Llama 3",
        by(r"<\|start_header_id\|>{}<\|end_header_id\|>(?:\r?\n){0,2}"),
        ends=("<|eot_id|>", "<|eom_id|>"),
        own=r"(?:Cutting Knowledge Date: [^\n]{1,40}\n)?Today Date: [^\n]{1,40}\n\n",
    ),
    Style("Gemma", by(rf"<start_of_turn>{{}}{LINE}", assistant="model"), ends=("<end_of_turn>",)),
    Style("Zephyr or Phi", by(rf"<\|{{}}\|>(?:{LINE}| )?"), ends=("</s>", "<|end|>")),
    Style(
        "Llama 2 or Mistral",
        (
            *(("system", rf"{begin}\[INST\] ?(?:{LINE})?<<SYS>>{BLANKS}") for begin in ("", r"<s>[ \n]?")),
            *(("user", rf"{begin}\[INST\]{BLANKS}") for begin in ("", r"<s>[ \n]?")),
            ("system", rf"\[SYSTEM_PROMPT\]{BLANKS}"),
            ("user", rf"<</SYS>>{BLANKS}"),
            ("assistant", rf"\[/INST\]{BLANKS}"),
            ("tool", r"\[(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"),
        ),
    ),
    Style("DeepSeek", by("<｜{}｜>", user="User", assistant="Assistant"), ends=("<｜end▁of▁sentence｜>",), preamble=True),
    Style(
        "Alpaca",
        tuple((role, rf"^### {name}:{BLANKS}") for role, name in (("user", "Instruction"), ("input", "Input"), ("assistant", "Response"))),
        preamble=True,
        own=r"Below is an instruction that describes a task[^\n.]{0,80}\.\s{0,2}Write a response that appropriately [a-z ]{1,30}\.\s{0,9}",
    ),
    Style("Guanaco", by(rf"### {{}}:{BLANKS}", user="Human", assistant="Assistant", system="System"), preamble=True),
    Style(
        "### User: ... ### Assistant: ...", by(rf"### {{}}:{BLANKS}", user="User", assistant="Assistant", system="System"), preamble=True
    ),
    Style("Vicuna", by(rf"{{}}:(?<![^\s>]{{}}:){BLANKS}", user="USER", assistant="ASSISTANT", system="SYSTEM"), preamble=True),
    Style("<HUMAN>: ... <ASSISTANT>: ...", by(rf"<{{}}>:{BLANKS}", user="HUMAN", assistant="ASSISTANT"), preamble=True),
    Style("<human>: ... <bot>: ...", by(rf"<{{}}>:{BLANKS}", user="human", assistant="bot"), preamble=True),
    *(
        Style(f"{user}: ... Assistant: ...", by(f"{marker}{BLANKS}", user=user, assistant="Assistant"), preamble=True)
        for user in ("Human", "User")
        for marker in (r"{}:(?:(?<=\n\n{}:)|(?<=\A{}:))", "^{}:")  # after blank lines if all turns are: lines inside may begin so
    ),
)


class Rendered:
    name = "rendered"
    title = "chats in text"
    summary = "text with the turns of a chat in ChatML, Llama, Gemma, Alpaca, Guanaco, Vicuna and the like"
    order = 55

    def __init__(self, column: str, style: Style) -> None:
        self.columns: tuple[str, ...] = (column,)
        self.style = style
        self.note = CHATS.format(column=column[:SHOWN], style=style.name, named=quoted(f"dataset.columns.text={column}"))

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Rendered | None:
        labelled, named = Text.matches(columns, sample), find_column(columns, *NAMES)
        if isinstance(labelled, PromptCompletion) and find_column([labelled.completion], *ANSWERS, *SURE_LABELS):
            return None  # it is the label that is learned; a category may sort chats too
        tried = (cls.of(column, sample) for column in (columns if named is None else [named]))
        return next(filter(None, tried), None)

    @classmethod
    def of(cls, column: str, sample: Sequence[dict[str, Any]]) -> Rendered | None:
        """Of this column, if it has such chats."""
        style = style_of([row[column] for row in sample if not is_empty(row.get(column))])
        return None if style is None else cls(column, style)

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        """The turns; raises RowProblem for a text that is no chat in the style of the others. Blank text is left out, as elsewhere."""
        column = self.columns[0]
        text = as_text(row.get(column), column)
        if is_empty(text):
            return [{"role": "text", "content": text}]
        if not (messages := _turns(self.style, text)):
            raise RowProblem(f"column {column} {NO_CHAT}")
        return [{**turn} for turn in messages]

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """What follows the last answer."""
        messages = self.to_messages(row)
        if messages[-1]["role"] == "user":
            yield f"{self.columns[0]} {AFTER}", messages[-1]["content"]


@lru_cache(maxsize=1)  # what a row leaves out is asked for right after its turns
def _turns(style: Style, text: str) -> list[Message]:
    return style.turns(text)


def style_of(cells: Sequence[Any]) -> Style | None:
    """The style in which nearly all of these texts are chats with an answer."""
    return next((style for style in STYLES if cells and _all_are_chats(cells, style)), None)


def chat(text: str) -> list[Message]:
    """The turns of one text in whatever style; none if it is no chat."""
    return next(filter(_is_answered, (style.turns(text) for style in STYLES)), [])


def _all_are_chats(cells: Sequence[Any], style: Style) -> bool:
    others, allowed = 0, int((1 - MANY) * len(cells))
    for cell in cells:
        others += not (isinstance(cell, str) and _is_answered(style.turns(cell)))
        if others > allowed:
            return False
    return True


def _is_answered(messages: Sequence[Message]) -> bool:
    return any(turn["role"] == "assistant" and not is_blank(turn) for turn in messages)
