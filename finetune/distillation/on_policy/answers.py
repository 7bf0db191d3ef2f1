"""Generate a student's answers to the prompts of training rows: sampled at temperature 1, in batches, from a seed of their own.

    asks = Prompts(rows, tokens=96, context=8192)
    answers = write_answers(model, [asks[0], asks[7]], Writing(stops, pad, tokens=96), seed=42)
    answers[0].ids, answers[0].ended
    repetition(answers)                    # the share of 4-grams that an answer has used before

An answer is supervised from its first token to the one that ends it, whichever id fills short rows; its prompt never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.data.tokens.labels import NO_LOSS, labels_of, unpadded
from finetune.errors import RecipeError
from finetune.training.decoding import batches, greedy, key_value_bytes, pad_left, pads_safely
from finetune.training.head import causal_lm, head_of
from finetune.training.out_of_memory import MEMORY_ERRORS, free_memory, ran_out
from finetune.training.resumable import random_states_now, set_random_states

GRAM = 4  # tokens
PROBED = 16  # prompts, among which the shortest and the longest show whether padding changes answers


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, with the one that ends it if it `ended` in time."""

    ids: list[int]
    ended: bool


@dataclass(frozen=True)
class Writing:
    """How a student writes: until one of `stops`, at most so many `tokens`; `pad` fills short prompts.

    Only tokens below `vocabulary`, if one is given: a teacher has no embedding of what else its student may have.
    """

    stops: list[int]
    pad: int
    tokens: int
    vocabulary: int | None = None


class Prompts:
    """The prompts of training rows: what comes before their `answer_start`, or before their first label.

    Raises RecipeError if no row has one, or if the longest and an answer of so many `tokens` do not fit into the `context`.
    """

    def __init__(self, rows: Any, *, tokens: int, context: int) -> None:
        self.rows = rows
        known = "answer_start" in (getattr(rows, "column_names", None) or [])
        starts = rows["answer_start"][:] if known else (start_of(rows[number]) for number in range(len(rows)))
        self.starts = {number: start for number, start in enumerate(starts) if start}  # of the rows that have a prompt
        self.numbers = list(self.starts)
        check_prompts(self.starts.values(), tokens=tokens, context=context)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> list[int]:
        number = self.numbers[place]
        return list(unpadded(self.rows[number])["input_ids"])[: self.starts[number]]


def check_prompts(lengths: Any, *, tokens: int, context: int, named: str = "on_policy") -> None:
    """Raises RecipeError unless there are prompts, and room for answers of so many tokens."""
    longest = max(lengths, default=0)
    if not longest:
        raise RecipeError(
            f"{named} lets the student answer prompts, and no row has one: they are plain text.",
            hint="Use rows with prompts and answers, or leave out the own answers (distillation.on_policy: null).",
        )
    if longest + tokens > context:
        raise RecipeError(
            f"The longest prompt has {longest:,} tokens; with an answer of {tokens:,} it exceeds the model's context of {context:,}.",
            hint="Lower distillation.on_policy.tokens, or dataset.max_length.",
        )


def start_of(row: Any) -> int:
    """Where the answer of a row begins; 0 if it has no prompt."""
    if "answer_start" in row:
        return int(row["answer_start"])
    labels = list(labels_of(unpadded(row)))
    return next((place for place, label in enumerate(labels) if label != NO_LOSS), 0)


def write_answers(model: Any, prompts: Sequence[list[int]], how: Writing, *, seed: int, alone: bool = False) -> list[Answer]:
    """An answer to each prompt, without dropout; the generators of the run, and the model's mode, stay as they are.

    With `alone` one prompt at a time. If memory runs out, half as many at a time.
    """
    inner = causal_lm(model)
    order = batches([len(prompt) for prompt in prompts], how.tokens, key_value_bytes(model))
    order = [[row] for batch in order for row in batch] if alone else order
    was_training, states = inner.training, random_states_now()
    beyond = [] if how.vocabulary is None else [*range(how.vocabulary, head_of(inner).vocabulary)]
    sampled = SAMPLED | ({"suppress_tokens": beyond} if beyond else {})
    inner.eval()
    try:
        with torch.no_grad(), greedy(inner, how.stops, pad=how.pad, max_new_tokens=how.tokens, **sampled):
            while True:
                torch.manual_seed(seed)
                try:
                    return _written(inner, prompts, order, how)
                except MEMORY_ERRORS as error:
                    if not ran_out(error) or all(len(batch) == 1 for batch in order):
                        raise
                free_memory()
                order = [half for batch in order for half in (batch[: (len(batch) + 1) // 2], batch[(len(batch) + 1) // 2 :]) if half]
    finally:
        inner.train(was_training)
        set_random_states(states)


SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def _written(inner: Any, prompts: Sequence[list[int]], order: list[list[int]], how: Writing) -> list[Answer]:
    found: dict[int, Answer] = {}
    for batch in order:
        ids, mask = pad_left([prompts[row] for row in batch], how.pad)
        made = inner.generate(ids.to(inner.device), attention_mask=mask.to(inner.device))[:, ids.shape[1] :]
        for row, answer in zip(batch, made.tolist(), strict=True):
            end = next((place for place, token in enumerate(answer) if token in how.stops), None)
            found[row] = Answer(answer if end is None else answer[: end + 1], end is not None)
    return [found[row] for row in range(len(prompts))]


def pads(model: Any, asks: Prompts, pad: int) -> bool:
    """Whether prompts may be padded: see `pads_safely`, which is asked about the shortest and the longest of a few."""
    return pads_safely(model, [asks[place] for place in range(min(PROBED, len(asks)))], pad)


def repetition(answers: Sequence[Answer]) -> float:
    """The share of 4-grams of tokens that the same answer has used before; 0 if all are shorter."""
    grams = [[tuple(answer.ids[place : place + GRAM]) for place in range(len(answer.ids) - GRAM + 1)] for answer in answers]
    return sum(len(each) - len(set(each)) for each in grams) / max(1, sum(map(len, grams)))
