"""Chat templates without running them for every row: the fixed text around the turns is found once for each sequence of roles.

fast = CachedChatTemplate(ChatTemplate(tokenizer))
fast.rendered(messages)     # the same pieces, about ten times as fast

Only for templates that are proven to copy what turns say (template_proof.py), and for ordinary rows: text in every turn, nothing beside it,
and none of the strings that mean something to the template or the tokenizer. All others are rendered by the template itself, and so are
the first rows of every sequence of roles, to be compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from finetune.data.formats.cells import Message
from finetune.data.rows import RowProblem
from finetune.data.tokens.pieces import Piece, Rendered
from finetune.data.tokens.render import ChatTemplate
from finetune.models.templates.template_facts import program
from finetune.models.templates.template_proof import prove
from finetune.models.templates.template_truth import ROLES

COMPARED = 20
MOST_SHAPES = 100
LONGEST_SHAPE = 12  # turns
SAID = ("role", "content")
BLANKS = "\u2003\t"  # around the probes: no template writes them itself
PROBE = re.compile(f"({BLANKS})?Probe(\\d+)q({BLANKS[::-1]})?")


class Slot(NamedTuple):
    """The place of a turn's text in a piece, and whether blanks before and after it are taken off."""

    turn: int
    left: bool
    right: bool


class Shape(NamedTuple):
    """Pieces as fixed text and slots, supervised or not, and what is noticed about every row with these roles."""

    pieces: list[tuple[list[str | Slot], bool]]
    answer: int | None  # the turn that is all of the last answer
    notices: frozenset[str]


Roles: TypeAlias = tuple[str, ...]


class CachedChatTemplate:
    """Stands in for a ChatTemplate."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.name = template.name
        proof = prove(program(template.tokenizer)) if not template.opened else None
        probes = "\0".join(map(_probe, range(LONGEST_SHAPE)))
        self.proof = proof if proof and not any(mark in probes for mark in proof.marks) else None
        marks = sorted(self.proof.marks, key=len, reverse=True) if self.proof else []
        self.marks = re.compile("|".join(map(re.escape, marks)) or "(?!)")
        self.shapes: dict[Roles, Shape | None] = {}
        self.seen: Counter[Roles] = Counter()

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        return self.rendered(messages).pieces

    def rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> Rendered:
        if tools or not all(map(self._is_ordinary, messages)):
            return self.template.rendered(messages, tools)
        roles = tuple(turn["role"] for turn in messages)
        if roles not in self.shapes:
            self.shapes[roles] = self._learned(roles) if len(self.shapes) < MOST_SHAPES and len(roles) <= LONGEST_SHAPE else None
        shape = self.shapes[roles]
        if shape is None or (self.template.longer and self._may_be_a_prompt(messages)):
            return self.template.rendered(messages)
        pieces = [Piece("".join([_filled(part, messages) for part in parts]), supervised) for parts, supervised in shape.pieces]
        found = Rendered(pieces, "" if shape.answer is None else messages[shape.answer]["content"], shape.notices)
        if self.seen[roles] < COMPARED:
            self.seen[roles] += 1
            truth = self.template.rendered(messages)
            if found != truth:
                self.shapes[roles] = None
            return truth
        return found

    def _is_ordinary(self, turn: Message) -> bool:
        """Whether it is proven what the template does with it."""
        content = turn["content"]
        return (
            self.proof is not None
            and turn["role"] in ROLES
            and (len(turn) == 2 or all(value is None or (key, value) == ("learn", True) for key, value in turn.items() if key not in SAID))
            and bool(content)
            and not content.isspace()
            and not (self.proof.trims and content != content.strip())
            and self.marks.search(content) is None
            and self.template.control.pattern.search(content) is None
            and not content.endswith(self.template.edges.ends)
        )

    def _may_be_a_prompt(self, messages: Sequence[Message]) -> bool:
        """Whether an answer begins as some prompts continue, so that a longer prompt could be taken for its own."""
        longer = tuple(self.template.longer)
        return any(turn["role"] == "assistant" and any(text.startswith(longer) for text in _stripped(turn["content"])) for turn in messages)

    def _learned(self, roles: Roles) -> Shape | None:
        probes: list[Message] = [{"role": role, "content": _probe(number)} for number, role in enumerate(roles)]
        try:
            rendered = self.template.rendered(probes)
        except RowProblem:
            return None
        answer = next((number for number, probe in enumerate(probes) if probe["content"] == rendered.answer), None)
        return Shape([(_parts(piece.text), piece.supervised) for piece in rendered.pieces], answer, rendered.notices)


def _probe(number: int) -> str:
    return f"{BLANKS}Probe{number}q{BLANKS[::-1]}"


def _stripped(text: str) -> tuple[str, str]:
    return text, text.lstrip()


def _parts(text: str) -> list[str | Slot]:
    """A rendered piece taken apart at the probes in it."""
    parts: list[str | Slot] = []
    done = 0
    for found in PROBE.finditer(text):
        parts += [text[done : found.start()], Slot(int(found.group(2)), left=found.group(1) is None, right=found.group(3) is None)]
        done = found.end()
    return [*parts, text[done:]]


def _filled(part: str | Slot, messages: Sequence[Message]) -> str:
    if isinstance(part, str):
        return part
    content = messages[part.turn]["content"]
    if part.left:
        content = content.lstrip()
    return content.rstrip() if part.right else content
