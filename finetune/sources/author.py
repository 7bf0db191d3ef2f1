"""Who writes rows: prompts in batches, and answers to them.

author = ModelAuthor(model, tokenizer, spec, examples, seed=42)
prompts = author.prompts(0)             # ["How do I prune roses?", None, ...]; None did not end, or is no plain text
author.answers(0, prompts[:1])          # ["Cut them in March ..."]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from finetune.errors import ModelError
from finetune.recipe import DatasetSpec
from finetune.sources.prompt_builder import PromptBuilder, Turns
from finetune.sources.writer import Writer

BATCH = 32  # prompts at once
PROMPT_TOKENS, ANSWER_TOKENS = 96, 256  # at most, unless the examples are longer
WORDS, ANSWERS = 1.0, 0.7  # temperatures: prompts that differ, answers that make sense
ROOM_FOR_LONGER = 1.5  # than the longest example


class Author(Protocol):
    """Both give the same again for the same batch; None stands for what did not end."""

    def prompts(self, batch: int) -> list[str | None]: ...

    def answers(self, batch: int, prompts: Sequence[str]) -> list[str | None]: ...


class ModelAuthor:
    """A model on this machine, which writes a person's words itself."""

    def __init__(self, model: Any, tokenizer: Any, spec: DatasetSpec, examples: Sequence[Turns], seed: int) -> None:
        self.seed = seed
        self.asking = PromptBuilder(tokenizer, topic=spec.topic, examples=examples, seed=seed)
        self.writer = Writer(model, tokenizer)
        half = spec.max_length // 2
        self.longest_prompt = min(half, self._longest(PROMPT_TOKENS, [turns[-2]["content"] for turns in examples]))
        self.longest_answer = min(half, self._longest(ANSWER_TOKENS, [turns[-1]["content"] for turns in examples]))

    def prompts(self, batch: int) -> list[str | None]:
        opening = self._fitting([self.asking.opening(batch)], self.longest_prompt) * BATCH
        closing = self.writer.ids(self.asking.closing)
        stops = [*self.writer.stops, *(closing if len(closing) == 1 else [])]
        found = self.writer.continued(
            opening, stops=stops, most=self.longest_prompt, seed=f"{self.seed} {batch} prompts", temperature=WORDS
        )
        # The token that ended the words is the closing, or one that the model ends all its texts with.
        return [self.asking.words([*tokens, *(closing if ended and len(closing) == 1 else [])]) for tokens, ended in found]

    def answers(self, batch: int, prompts: Sequence[str]) -> list[str | None]:
        asked = self._fitting([self.asking.question(batch, words) for words in prompts], self.longest_answer)
        return self.writer.answers(asked, most=self.longest_answer, seed=f"{self.seed} {batch} answers", temperature=ANSWERS)

    def _fitting(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """The tokens of texts; raises ModelError where the context has no room for `most` tokens behind them."""
        prompts = [self.writer.ids(text) for text in texts]
        if self.writer.context - max(map(len, prompts)) < most:
            raise ModelError(
                f"The teacher's context of {self.writer.context} tokens has no room for examples, a prompt and an answer.",
                hint="Give shorter examples, or lower --set dataset.max_length.",
            )
        return prompts

    def _longest(self, usual: int, texts: Sequence[str]) -> int:
        return max([usual, *(math.ceil(ROOM_FOR_LONGER * len(self.writer.ids(text))) for text in texts)])
