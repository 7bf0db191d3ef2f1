"""The plain template: for models without a chat template, and for plain text with any model.

PlainTemplate("</s>").pieces([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    ->  [Piece("Hi\n", False), Piece("Hello!</s>", True)]

Every question is followed by a line end, every answer and every plain text by the end-of-text token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.data.formats.cells import Message
from finetune.data.rows import RowProblem
from finetune.data.tokens.control_tokens import ControlTokens, unused
from finetune.data.tokens.pieces import CONTROL, IN_TEXT, Piece, Rendered, piece_of
from finetune.data.tokens.tokenise import lead_ids
from finetune.data.tokens.turns import BEGAN, ENDED, Edges, Turn, tidied, without_beginning, without_end
from finetune.models.templates.chat_template import answer_ends, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_EDGES = Edges("", (), adds_beginning=True)


class PlainTemplate:
    """For models without a chat template, and for plain text with any model. Messages must not contain `control` tokens, texts may.

    With `shows_calls` it writes reasoning, tool calls and results somehow, for people; a model is not to learn them like this.
    """

    name = "plain"

    def __init__(self, end: str, edges: Edges = NO_EDGES, control: Sequence[str] = (), *, shows_calls: bool = False) -> None:
        self.end, self.edges, self.control, self.shows_calls = end, edges, ControlTokens(control), shows_calls

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> PlainTemplate:
        begin = str(tokenizer.bos_token or "")
        edges = Edges(begin, tuple(answer_ends(tokenizer)), adds_beginning=tokenizer.bos_token_id in lead_ids(tokenizer))
        return cls(end_token(tokenizer), edges, special_tokens(tokenizer))

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        return self.rendered(messages).pieces

    def rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> Rendered:
        if messages[0]["role"] == "text":
            return self._document(messages[0]["content"])
        turns, notices = tidied(messages, self.edges, knows_reasoning=self.shows_calls)
        if self.shows_calls:
            turns = [replace(turn, content=_shown(turn)) for turn in turns]
        elif tools or any(turn.uses_tools for turn in turns):
            raise RowProblem("it uses tools, but the model has no chat template that could write them")
        begin = self.edges.begin if turns[0].content.startswith(self.edges.begin) else ""  # one that the tokenizer does not write
        contents = [turns[0].content[len(begin) :], *(turn.content for turn in turns[1:])]
        token = self.control.first_in(contents)
        cut, _ = unused(contents)
        pieces: list[Piece] = []
        question = begin
        for turn, content in zip(turns, self.control.broken(contents, cut) if token else contents, strict=True):
            if turn.role != "assistant":
                question += content + "\n"
            elif content.strip():
                pieces += [piece_of(question, cut), piece_of(content + self.end, cut, supervised=turn.learned, muted=turn.muted)]
                question = ""
        notices |= {CONTROL} if token else set()
        return Rendered([piece for piece in pieces if piece.text], turns[-1].content, frozenset(notices), token)

    def _document(self, text: str) -> Rendered:
        """With one beginning and one end; whatever other control tokens stand in it are meant."""
        bare = without_beginning(text, self.edges)
        notices = {BEGAN} if bare != text else set()
        inner = without_end(bare, self.edges.ends)
        if text.strip() and not inner.removeprefix(self.edges.begin).strip():
            raise RowProblem("the text has nothing but tokens that mark a beginning or an end")
        if inner == bare:
            ended = bare + self.end
        else:
            notices.add(ENDED)
            ended = bare.rstrip()
            end = next(end for end in self.edges.ends if ended.endswith(end))
            while ended.removesuffix(end).rstrip().endswith(end):
                ended = ended.removesuffix(end).rstrip()
        token = self.control.first_in(inner.removeprefix(self.edges.begin))
        notices |= {IN_TEXT} if token else set()
        return Rendered([Piece(ended, True)] if ended else [], "", frozenset(notices), token)


def _shown(turn: Turn) -> str:
    """What a turn thinks, says and calls."""
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in turn.more.get("tool_calls", [])]
    return "\n".join(filter(None, [turn.more.get("reasoning_content", ""), turn.content, *calls]))


def end_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The end-of-text token; nothing if the tokenizer has none."""
    return str(tokenizer.eos_token) if tokenizer.eos_token is not None else ""
