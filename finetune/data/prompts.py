"""The prompts of a dataset that a teacher is to answer, in the order in which it does; answers of the data are left out.

    prompts = read_prompts(recipe.dataset, tokenizer, seed=42, runtime=RuntimeOptions(), reporter=Recorder())
    prompts.batch(0, 32)        # [Prompt([{"role": "user", "content": "..."}], None), ...]

A row's prompt is all before its last answer. Earlier answers of a conversation stay as what was said, and are not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.data.arrow_records import restored
from finetune.data.reading import Rows, read_rows
from finetune.data.row_reader import TO_COME
from finetune.data.tokens.turns import last_learned
from finetune.errors import UnknownFormat
from finetune.events import Reporter
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

Turns = list[dict[str, str]]
SAME, LONG, TOOLS = "the same prompt again", "a prompt that takes more than half of dataset.max_length", "a prompt with tools"
MEASURED = 100  # prompts, to say how long they are


@dataclass(frozen=True)
class Prompt:
    """The turns up to where the answer begins; `problem` says why it is not asked, if it is not."""

    turns: Turns
    problem: str | None


class Prompts:
    """`order` has the numbers of the rows, `again` is true for those whose prompt came before; the same for the same rows and seed."""

    def __init__(self, rows: Rows, tokenizer: Any, seed: int, most: int) -> None:
        self.rows, self.tokenizer, self.most = rows, tokenizer, most
        self.order = np.random.default_rng(seed).permutation(len(rows))
        hashes = np.asarray(rows.dataset["prompt_hash"][:])[self.order]
        self.again = np.ones(len(self.order), bool)
        self.again[np.unique(hashes, return_index=True)[1]] = False

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, number: int, size: int) -> list[Prompt]:
        """The prompts of a batch; fewer in the last one."""
        dataset, places = self.rows.dataset, range(number * size, min(len(self), (number + 1) * size))
        return [self._prompt(restored(dataset[int(self.order[place])]), again=bool(self.again[place])) for place in places]

    def lengths(self) -> tuple[float, float | None]:
        """Tokens of a prompt and of an answer of the data, on average over some; None where the data have no answers."""
        dataset = self.rows.dataset
        some = [restored(dataset[int(place)])["messages"] for place in self.order[:MEASURED]]
        answers = [turns[last_learned(turns)]["content"] for turns in some if turns[0]["role"] != "text"]
        answers = [text for text in answers if text != TO_COME]
        prompts = [sum(self._tokens(turn["content"]) for turn in self._asked(turns)) for turns in some]
        return float(np.mean(prompts)), float(np.mean([self._tokens(text) for text in answers])) if answers else None

    def _prompt(self, record: dict[str, Any], *, again: bool) -> Prompt:
        turns = self._asked(record["messages"])
        if "tools" in record or any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns):
            return Prompt([], TOOLS)
        chat = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        if again:
            return Prompt(chat, SAME)
        return Prompt(chat, LONG if sum(self._tokens(turn["content"]) for turn in chat) > self.most else None)

    def _asked(self, turns: Sequence[Any]) -> list[Any]:
        if turns[0]["role"] == "text":
            return [{**turns[0], "role": "user"}]
        return list(turns[: last_learned(turns)])

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def read_prompts(spec: DatasetSpec, tokenizer: Any, *, seed: int, runtime: RuntimeOptions, reporter: Reporter) -> Prompts:
    """The prompts of `spec.source`; raises the DatasetError that states what is wrong."""
    rows = read_rows(spec, runtime, reporter, prompts=True)
    if rows.facts.format == "tokenized":
        said = f"{rows.facts.origin} has tokenised rows, which cannot prompt a teacher."
        raise UnknownFormat(said, hint="Give rows of text, or leave out dataset.answers.")
    return Prompts(rows, tokenizer, seed, spec.max_length // 2)
