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
from finetune.sources.asking import Asking, Turns
from finetune.sources.writer import Writer
from finetune.training.decoding import stop_ids

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
        self.tokenizer, self.seed = tokenizer, seed
        self.asking = Asking(tokenizer, topic=spec.topic, examples=examples, seed=seed)
        self.writer, self.stops = Writer(model, tokenizer), stop_ids(model, tokenizer)
        half = spec.max_length // 2
        self.longest_prompt = min(half, self._longest(PROMPT_TOKENS, [turns[-2]["content"] for turns in examples]))
        self.longest_answer = min(half, self._longest(ANSWER_TOKENS, [turns[-1]["content"] for turns in examples]))

    def prompts(self, batch: int) -> list[str | None]:
        opening = self._ids(self.asking.opening(batch))
        closing = self._ids(self.asking.closing)
        stops = [*self.stops, *(closing if len(closing) == 1 else [])]
        found = self._continued([opening] * BATCH, stops, self.longest_prompt, WORDS, f"{self.seed} {batch} prompts")
        # The token that ended the words is the closing, or one that the model ends all its texts with.
        return [self.asking.words([*tokens, *(closing if ended and len(closing) == 1 else [])]) for tokens, ended in found]

    def answers(self, batch: int, prompts: Sequence[str]) -> list[str | None]:
        asked = [self._ids(self.asking.question(batch, words)) for words in prompts]
        found = self._continued(asked, self.stops, self.longest_answer, ANSWERS, f"{self.seed} {batch} answers")
        return [str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip() if ended else None for tokens, ended in found]

    def _continued(
        self, prompts: list[list[int]], stops: list[int], most: int, temperature: float, seed: str
    ) -> list[tuple[list[int], bool]]:
        room = self.writer.context - max(map(len, prompts))
        if room < most:
            raise ModelError(
                f"The teacher's context of {self.writer.context} tokens has no room for examples, a prompt and an answer.",
                hint="Give shorter examples, or lower --set dataset.max_length.",
            )
        return self.writer.continued(prompts, stops=stops, most=most, seed=seed, temperature=temperature)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _longest(self, usual: int, texts: Sequence[str]) -> int:
        return max([usual, *(math.ceil(ROOM_FOR_LONGER * len(self._ids(text))) for text in texts)])
