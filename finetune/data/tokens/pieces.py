"""Pieces of a rendered row: text that is supervised as a whole or not at all, and what was noticed while it was rendered.

Piece("Hello!<|im_end|>", True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from finetune.data.formats.cells import Message
from finetune.data.tokens.control_tokens import whole

# Also noticed about a row: control tokens in a message or in a plain text, text that the template leaves out, and an answer that does not
# follow the prompt that the template would write.
CONTROL, IN_TEXT, REWRITTEN, UNOPENED = "control", "in text", "rewritten", "unopened"


class Piece(NamedTuple):
    """`cuts` are places inside control tokens that somebody wrote: broken there, they are read as text.

    A `muted` piece is an answer that has no loss even where everything else has one.
    """

    text: str
    supervised: bool
    cuts: tuple[int, ...] = ()
    muted: bool = False


class Rendered(NamedTuple):
    """`answer` is the last answer as it was written, "" where it is more than text; `notices` say what was done to the row."""

    pieces: list[Piece]
    answer: str
    notices: frozenset[str] = frozenset()
    token: str | None = None  # a control token in the text


class Template(Protocol):
    name: str

    def rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> Rendered: ...


def piece_of(text: str, cut: str, *, supervised: bool = False, muted: bool = False) -> Piece:
    """A piece of rendered text in which control tokens are broken by `cut`."""
    return Piece(text, supervised, (), muted) if cut not in text else Piece(whole(text, cut)[0], supervised, whole(text, cut)[1], muted)
