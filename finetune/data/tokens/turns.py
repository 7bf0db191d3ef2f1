"""Prepare a row's turns for a template: one beginning and one end of text, and which answers are learned.

tidy = tidied([{"role": "user", "content": "<s>Hi"}, {"role": "assistant", "content": "Hello!</s>"}], edges)
tidy.turns[1].content, tidy.turns[1].learned, tidy.notices     # "Hello!", True, {"began", "ended"}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

from finetune.data.formats.cells import Message
from finetune.data.rows import RowProblem

# What can be noticed about a row; `data/row_notices.py` has the sentences.
BEGAN, ENDED, EMPTY, MUTED, JOINED, SYSTEM, THOUGHT = "began", "ended", "empty", "muted", "joined", "system", "thought"
MORE = ("reasoning_content", "tool_calls", "tool_call_id", "name")  # what a turn may have beside role and content


class Edges(NamedTuple):
    """How a text of this model begins and ends, as text; `adds_beginning`: the tokenizer puts the beginning there itself."""

    begin: str
    ends: tuple[str, ...]
    adds_beginning: bool


@dataclass(frozen=True)
class Turn:
    """One turn. It is learned, or was marked as not to be learned (`muted`), or is context.

    `parts` are the contents that a joined answer was made from, where only some of them are learned: text, learned.
    """

    role: str
    content: str
    more: dict[str, Any] = field(default_factory=dict)
    learned: bool = False
    muted: bool = False
    parts: tuple[tuple[str, bool], ...] = ()

    def saying(self, content: str) -> Turn:
        """The same turn with other words; nothing is learned of one that says nothing then."""
        says = bool(content.strip()) or self.calls_or_thinks
        return replace(self, content=content, learned=self.learned and says, muted=self.muted and says)

    @property
    def given(self) -> dict[str, Any]:
        """What the template is given."""
        return {"role": self.role, "content": self.content, **self.more}

    @property
    def calls_or_thinks(self) -> bool:
        return bool({"tool_calls", "reasoning_content"} & set(self.more))

    @property
    def uses_tools(self) -> bool:
        return self.role == "tool" or "tool_calls" in self.more


class Tidy(NamedTuple):
    turns: list[Turn]  # up to the last that is learned
    notices: set[str]


def tidied(messages: Sequence[Message], edges: Edges, *, knows_reasoning: bool = False) -> Tidy:
    """Raises RowProblem where nothing is left to learn."""
    notices: set[str] = set()
    turns = [_turn(message, knows_reasoning, notices) for message in messages]
    first = without_beginning(turns[0].content, edges)
    if first != turns[0].content:
        turns[0] = turns[0].saying(first)
        notices.add(BEGAN)
    last = max((number for number, turn in enumerate(turns) if turn.learned), default=-1)
    for number, turn in enumerate(turns):
        if turn.role == "assistant":
            ended = without_end(turn.content, edges.ends)
            if ended != turn.content:
                turns[number] = turn.saying(ended)
                notices |= {ENDED} if number <= last else set()
    last = max((number for number, turn in enumerate(turns) if turn.learned), default=-1)
    if last < 0:
        raise RowProblem(_nothing_learned(turns))
    notices |= {MUTED} if any(turn.muted for turn in turns) else set()
    notices |= {EMPTY} if any(turn.role == "assistant" and not turn.learned and not turn.muted for turn in turns[:last]) else set()
    return Tidy(turns[: last + 1], notices)


def last_learned(messages: Sequence[Message]) -> int:
    """The number of the last turn that the model learns to write, or of the last that it could have learned."""
    written = [number for number, turn in enumerate(messages) if turn["role"] in ("assistant", "text")]
    learned = [number for number in written if messages[number].get("learn") is not False and _says_something(messages[number])]
    return (learned or written)[-1]


def without_beginning(text: str, edges: Edges) -> str:
    """The text with the beginning that it will have anyway taken off; one is left where nothing else writes it."""
    bare = text.lstrip()
    if not edges.begin or not bare.startswith(edges.begin):
        return text
    while (rest := bare[len(edges.begin) :]).lstrip().startswith(edges.begin):
        bare = rest.lstrip()
    return rest if edges.adds_beginning else edges.begin + rest


def without_end(text: str, ends: Iterable[str]) -> str:
    """The text without the end tokens and the blanks that follow it."""
    while True:
        bare = text.rstrip()
        end = next((end for end in ends if bare.endswith(end)), None)
        if end is None:
            return text
        text = bare[: -len(end)]


def arranged(turns: Sequence[Turn], *, keeps_system: bool) -> list[Turn]:
    """The same text in turns that alternate: system turns but a first one that is kept are the user's, and neighbours are joined."""
    found: list[Turn] = []
    keeps_system = keeps_system or [turn.role for turn in turns[1:2]] != ["user"]
    for turn in turns:
        if turn.role == "system" and (found or not keeps_system):
            turn = replace(turn, role="user")
        if found and found[-1].role == turn.role and turn.role in ("user", "assistant"):
            turn = _joined(found.pop(), turn)
        found.append(turn)
    return found


def strings(value: Any) -> Iterator[str]:
    """Every text inside a value."""
    for part in chain.from_iterable(value.items()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,):
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict | list | tuple):
            yield from strings(part)


def _turn(message: Message, knows_reasoning: bool, notices: set[str]) -> Turn:
    given: dict[str, Any] = dict(message)
    more = {key: given[key] for key in MORE if given.get(key) not in (None, "", [])}
    if "reasoning_content" in more and not knows_reasoning:
        del more["reasoning_content"]
        notices.add(THOUGHT)
    content = given.get("content") or ""
    answers = given["role"] in ("assistant", "text")
    muted = answers and given.get("learn") is False
    says = bool(content.strip()) or bool({"tool_calls", "reasoning_content"} & set(more))
    return Turn(given["role"], content, more, learned=answers and says and not muted, muted=muted and says)


def _says_something(message: Message) -> bool:
    return bool((message.get("content") or "").strip() or message.get("tool_calls") or message.get("reasoning_content"))


def _joined(one: Turn, other: Turn) -> Turn:
    """Two turns of one role as one, a blank line between them."""
    contents = [turn.content for turn in (one, other) if turn.content.strip()]
    thoughts = [turn.more["reasoning_content"] for turn in (one, other) if "reasoning_content" in turn.more]
    more = {**one.more, **other.more}
    more |= {"reasoning_content": "\n\n".join(thoughts)} if thoughts else {}
    parts = tuple(part for turn in (one, other) if turn.content.strip() for part in turn.parts or ((turn.content, turn.learned),))
    mixed = parts if len({learned for _, learned in parts}) > 1 else ()
    learned, muted = one.learned or other.learned, one.muted or other.muted
    return Turn(one.role, "\n\n".join(contents), more, learned=learned, muted=muted and not learned, parts=mixed)


def _nothing_learned(turns: Sequence[Turn]) -> str:
    if any(turn.muted for turn in turns):
        return "every answer is marked as not to be learned"
    if turns[0].role == "text":
        return "the text has nothing but tokens that mark a beginning or an end"
    return "no answer has any text"
