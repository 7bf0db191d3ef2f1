"""Who answers prompts of the data: a model on this machine, or one on a server.

answerer = ModelAnswerer(model, tokenizer, most=256, seed=42)
answerer.answers(0, [[{"role": "user", "content": "2 + 2?"}]])      # ["4"]; None for an answer that does not end
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from finetune.errors import ModelError
from finetune.models.templates.chat_template import TemplateFailure, render_chat
from finetune.models.templates.template_facts import prompt_options
from finetune.sources.account import Account
from finetune.sources.prompt_builder import MARK, Turns

if TYPE_CHECKING:
    from finetune.sources.server import Server

TEMPERATURE = 0.7  # of a model here; a server's is its client's
OTHER = "Name a chat model as the teacher, or learn the answers of the data: --set dataset.answers=data"


class Answerer(Protocol):
    """Gives the same again for the same batch; None stands for what did not end."""

    def answers(self, batch: int, chats: Sequence[Turns]) -> list[str | None]: ...


class ModelAnswerer:
    """Answers of at most `most` tokens, all of a batch at once. Raises ModelError for a chat that the template refuses."""

    def __init__(self, model: Any, tokenizer: Any, *, most: int, seed: int) -> None:
        from finetune.sources.writer import Writer

        self.tokenizer, self.most, self.seed = tokenizer, most, seed
        self.options = prompt_options(tokenizer, thinking=False)
        self.writer = Writer(model, tokenizer)

    def answers(self, batch: int, chats: Sequence[Turns]) -> list[str | None]:
        asked = [self._ids(chat) for chat in chats]
        if max(map(len, asked)) + self.most > self.writer.context:
            raise ModelError(
                f"The teacher's context of {self.writer.context} tokens has no room for a prompt and an answer of {self.most} tokens.",
                hint=f"Lower it: --set dataset.max_length={self.most}",
            )
        return self.writer.answers(asked, most=self.most, seed=f"{self.seed} {batch} answers", temperature=TEMPERATURE)

    def _ids(self, chat: Turns) -> list[int]:
        try:
            text = render_chat(self.tokenizer, chat, add_generation_prompt=True, **self.options)
        except TemplateFailure as error:
            raise ModelError(f"The teacher cannot be given a prompt of the data: {error.message}", hint=OTHER) from None
        return self.writer.ids(text)


class ServerAnswerer:
    """The same, for `budget` tokens at most (sources/account.py)."""

    def __init__(self, server: Server, *, most: int, seed: int, budget: int | None) -> None:
        self.most, self.seed, self.account = most, seed, Account(server, budget)

    def answers(self, batch: int, chats: Sequence[Turns]) -> list[str | None]:
        letters = [sum(len(turn["content"]) for turn in chat) for chat in chats]
        self.account.check(sum(self.most + each // 2 for each in letters))  # hardly a token has one character
        found = self.account.completions(chats, most=self.most, seed=f"{self.seed} {batch} answers")
        return [each.text if each.ended else None for each in found]


def problem(tokenizer: Any, name: str) -> ModelError | None:
    """Why this model cannot answer what a person says, or None."""
    if not tokenizer.chat_template:
        return ModelError(f"{name} has no chat template, so it cannot answer prompts.", hint=OTHER)
    try:
        asked = render_chat(
            tokenizer, [{"role": "user", "content": MARK}], add_generation_prompt=True, **prompt_options(tokenizer, thinking=False)
        )
    except TemplateFailure as error:
        return ModelError(f"{name} cannot answer prompts: {error.message}", hint=OTHER)
    return None if MARK in asked else ModelError(f"The chat template of {name} leaves out what a person says.", hint=OTHER)
