"""A teacher on a server that writes rows: chat completions are all that it offers, so it is asked for a person's message in words.

author = ServerAuthor(server, spec, examples, seed=42, budget=200_000)
author.prompts(0)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.recipe import DatasetSpec
from finetune.sources.account import Account
from finetune.sources.prompt_builder import ABOUT, SHOWN, Turns

if TYPE_CHECKING:
    from finetune.sources.server import Messages, Server

BATCH = 16  # prompts at once
PROMPT_TOKENS, ANSWER_TOKENS = 128, 512  # at most
ASK = "Write {kind} that a person might send to an assistant. Reply with that message alone: no quotes, no comment, no answer."
LIKE = "\n\nIt should be of the same kind as these, but about something else:\n\n{examples}"
KINDS = (
    "a short question",
    "a request for help with a problem",
    "a request to write something",
    "a question about how something works",
    "a task with a little text to work on",
)


class ServerAuthor:
    """Asks for `budget` tokens at most (sources/account.py)."""

    def __init__(self, server: Server, spec: DatasetSpec, examples: Sequence[Turns], seed: int, budget: int | None) -> None:
        self.examples, self.seed, self.account = examples, seed, Account(server, budget)
        self.about = [{"role": "system", "content": ABOUT.format(topic=spec.topic)}] if spec.topic else []

    def prompts(self, batch: int) -> list[str | None]:
        chats = []
        for number in range(BATCH):
            draw = random.Random(f"{self.seed} {batch} {number}")
            asked = ASK.format(kind=draw.choice(KINDS) if not self.examples else "a message")
            if self.examples:
                shown = draw.sample(range(len(self.examples)), min(SHOWN, len(self.examples)))
                asked += LIKE.format(examples="\n\n".join(self.examples[place][-2]["content"] for place in shown))
            chats.append([*self.about, {"role": "user", "content": asked}])
        self._check_budget(chats)
        found = self.account.completions(chats, most=PROMPT_TOKENS, seed=f"{self.seed} {batch} prompts")
        return [each.text.strip("\"' \n") if each.ended else None for each in found]

    def answers(self, batch: int, prompts: Sequence[str]) -> list[str | None]:
        draw = random.Random(f"{self.seed} {batch}")
        shown = draw.sample(range(len(self.examples)), min(SHOWN, len(self.examples)))
        before = [*self.about, *(turn for place in shown for turn in self.examples[place])]
        chats = [[*before, {"role": "user", "content": prompt}] for prompt in prompts]
        found = self.account.completions(chats, most=ANSWER_TOKENS, seed=f"{self.seed} {batch} answers")
        return [each.text if each.ended else None for each in found]

    def _check_budget(self, chats: Sequence[Messages]) -> None:
        """Before a batch, whose prompts and answers are then paid for."""
        asked = sum(len(turn["content"]) for chat in chats for turn in chat)
        shown = SHOWN * max((sum(len(turn["content"]) for turn in turns) for turns in self.examples), default=0)
        longest = BATCH * (2 * PROMPT_TOKENS + ANSWER_TOKENS) + (asked + BATCH * shown) // 2  # hardly a token has one character
        self.account.check(longest)
