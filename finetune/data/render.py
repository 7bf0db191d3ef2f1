"""Turns to text, cut where supervision begins and ends.

render.pieces([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    ->  [Piece("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False), Piece("Hello!<|im_end|>", True)]

The model's own chat template is used where it has one. The plain template: every question is followed by a line end, every answer
and every plain text by the end-of-text token. What follows the last answer is left out: it is not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from finetune.data.formats.cells import Message, last_answer
from finetune.data.rows import RowProblem
from finetune.models.chat_template import TemplateFailure, render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ue000answer\ue001"  # private-use characters
# Hybrid models start an answer without reasoning if asked to; the rendered text shows whether they did.
THOUGHTLESS: list[dict[str, bool]] = [{"enable_thinking": False}, {}]


class Piece(NamedTuple):
    text: str
    supervised: bool


class Template(Protocol):
    name: str

    def pieces(self, messages: Sequence[Message]) -> list[Piece]: ...


class PlainTemplate:
    """For models without a chat template, and for plain text with any model."""

    name = "plain"

    def __init__(self, end: str) -> None:
        self.end = end

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        pieces: list[Piece] = []
        question = ""
        for turn in messages:
            if turn["role"] in ("assistant", "text"):
                pieces += [Piece(question, False), Piece(turn["content"] + self.end, True)]
                question = ""
            else:
                question += turn["content"] + "\n"
        return [piece for piece in pieces if piece.text]


class ChatTemplate:
    """The tokenizer's own chat template; an answer is supervised up to and including the token that ends its turn."""

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.plain = PlainTemplate(end_token(tokenizer))
        self.special = sorted({str(token) for token in _special_tokens(tokenizer)}, key=len, reverse=True)
        self.takes_system = self._takes_system()

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        if messages[0]["role"] == "text":
            return self.plain.pieces(messages)
        turns = self._prepared(messages)
        whole = self._render(turns, open_answer=False)
        pieces: list[Piece] = []
        done = 0
        for number, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            start, end = self._answer(turns, number, whole, done)
            pieces += [Piece(whole[done:start], False), Piece(whole[start:end], True)]
            done = end
        last = pieces[-1].text
        if not last.endswith(tuple(self.special)):  # a template without an end of turn would never stop
            pieces[-1] = Piece(last + self.plain.end, True)
        return [piece for piece in pieces if piece.text]

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        turns = [dict(turn) for turn in messages[: last_answer(messages) + 1]]
        if not self.takes_system and turns[0]["role"] == "system" and len(turns) > 1 and turns[1]["role"] == "user":
            system = turns.pop(0)
            turns[0]["content"] = f"{system['content']}\n\n{turns[0]['content']}"
        return cast("list[Message]", turns)

    def _answer(self, turns: list[Message], number: int, whole: str, done: int) -> tuple[int, int]:
        """Where an answer begins and ends in the rendered text, its end-of-turn token included.

        It begins where the prompt ends that the model will be given. Its place is found by rendering a mark in its place, because
        its own text may also occur elsewhere, and because templates may trim or rewrite it.
        """
        marked: list[Message] = [*turns[:number], {"role": "assistant", "content": MARK}, *turns[number + 1 :]]
        before, _, after = self._render(marked, open_answer=False).partition(MARK)
        prompts = [self._render(turns[:number], open_answer=True, **option) for option in THOUGHTLESS] if number > 0 else []
        start = next((len(opening) for opening in [*prompts, before] if whole.startswith(opening) and len(opening) >= done), None)
        end = len(whole) - len(after)
        if start is None or not whole.endswith(after) or not whole[start:end].strip():
            raise RowProblem("the model's chat template drops or rewrites the answer")
        closings = [(whole.find(token, end), token) for token in self.special]
        reached = [at + len(token) for at, token in closings if at >= 0 and not whole[end:at].strip()]
        return start, min(reached, default=end)

    def _render(self, turns: Sequence[Message], *, open_answer: bool, **options: Any) -> str:
        try:
            return render_chat(self.tokenizer, turns, add_generation_prompt=open_answer, **options)
        except TemplateFailure as error:
            raise RowProblem(f"refused by the model's chat template: {error.detail}") from None

    def _takes_system(self) -> bool:
        try:
            rendered = self._render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], open_answer=False)
        except RowProblem:
            return False
        return "Be brief." in rendered


def end_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The end-of-text token; nothing if the tokenizer has none."""
    return str(tokenizer.eos_token) if tokenizer.eos_token is not None else ""


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [*tokenizer.all_special_tokens, *(token.content for token in added if token.special)]
