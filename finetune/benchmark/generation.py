"""Greedy answers to held-out prompts, in batches of similar length, and how fast they came.

    generations = generate_answers(model, tokenizer, rows, max_new_tokens=64, reporter=reporter, stage="benchmark")
    generations.texts, generations.tokens_per_second

Batches depend on the rows and the model's shape alone, never on free memory, so the same model and rows give the same texts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from finetune.errors import BenchmarkError
from finetune.events import Progress, Reporter
from finetune.training.head import causal_lm

KEY_VALUE_BYTES = 768 << 20  # of one batch's keys and values
LARGEST_BATCH = 64
STEP_IN_TOKENS = 32  # reading all weights takes as long as computing about so many tokens (measured on a CPU: 60 ms and 1.8 ms)
FEWEST_NEW_TOKENS, MOST_NEW_TOKENS = 16, 256


@dataclass(frozen=True)
class Generations:
    """Texts in the order of the rows; tokens include the one that ended an answer, seconds include reading the prompts."""

    texts: list[str]
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@torch.inference_mode()
def generate_answers(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, max_new_tokens: int, reporter: Reporter, stage: str
) -> Generations:
    """Continue every row's `prompt_ids` greedily until an end token or `max_new_tokens`."""
    room = context_length(model) - max_new_tokens
    if room < 1:
        raise BenchmarkError(
            f"Answers of {max_new_tokens} tokens do not fit the model's context of {context_length(model)}.",
            hint="Lower it: --set benchmark.max_new_tokens=64",
        )
    stops = stop_ids(model, tokenizer)
    prompts = [list(row["prompt_ids"])[-room:] or stops[:1] for row in rows]  # a text from nothing starts after an end
    pad = padding_id(tokenizer, stops)
    inner, device = causal_lm(model), next(model.parameters()).device
    texts, made, done = [""] * len(prompts), 0, 0
    started = time.perf_counter()
    with greedy(inner, stops, pad=pad, max_new_tokens=max_new_tokens):
        for batch in batches([len(prompt) for prompt in prompts], max_new_tokens, key_value_bytes(model)):
            ids, mask = pad_left([prompts[row] for row in batch], pad)
            answers = inner.generate(ids.to(device), attention_mask=mask.to(device))[:, ids.shape[1] :]
            for row, answer in zip(batch, answers.tolist(), strict=True):
                kept = until_stop(answer, stops)
                made += min(len(kept) + 1, len(answer))
                texts[row] = tokenizer.decode(kept, skip_special_tokens=True).strip()
            done += len(batch)
            reporter.report(Progress(stage, done, len(prompts), "answers"))
    return Generations(texts, made, time.perf_counter() - started)


def answer_budget(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> int:
    """Room for 95 % of the reference answers and their end token, within 16..256 tokens."""
    lengths = [len(tokenizer(row["reference"], add_special_tokens=False)["input_ids"]) for row in rows]
    return min(MOST_NEW_TOKENS, max(FEWEST_NEW_TOKENS, math.ceil(float(np.percentile(lengths, 95))) + 1))


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: the tokenizer's, the model's own, and the one its chat template puts after a reply."""
    found = set(_ids(tokenizer.eos_token_id)) | set(_ids(getattr(model.generation_config, "eos_token_id", None)))
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "reply"}]
        after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("reply")[2]
        ended = tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        found |= set(ended) & set(tokenizer.added_tokens_decoder)
    return sorted(found)


@contextmanager
def greedy(inner: Any, stops: list[int], *, pad: int, max_new_tokens: int) -> Iterator[None]:
    """Plain greedy search: what the checkpoint's own generation_config asks for (sampling, penalties, lengths) is set aside."""
    own = inner.generation_config
    inner.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stops or None, pad_token_id=pad, use_cache=True
    )
    try:
        yield
    finally:
        inner.generation_config = own


def padding_id(tokenizer: Any, stops: list[int]) -> int:
    """Padding is masked, so any id will do where the tokenizer has none."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return stops[0] if stops else 0


def until_stop(answer: list[int], stops: list[int]) -> list[int]:
    return next((answer[:place] for place, token in enumerate(answer) if token in stops), answer)


def batches(lengths: Sequence[int], new_tokens: int, bytes_per_token: int) -> list[list[int]]:
    """Row numbers from the longest prompt to the shortest, cut into batches where that costs least.

    A batch costs its padded prompts, and the weights read once for every new token; its keys and values fit KEY_VALUE_BYTES.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    cheapest = [(0, 0)]  # for the first n rows: what they cost, and where their last batch begins
    for end in range(1, len(order) + 1):
        choices = []
        for begin in range(max(0, end - LARGEST_BATCH), end):
            rows, longest = end - begin, lengths[order[begin]]
            if rows == 1 or rows * (longest + new_tokens) * bytes_per_token <= KEY_VALUE_BYTES:
                choices.append((cheapest[begin][0] + rows * longest + new_tokens * STEP_IN_TOKENS, begin))
        cheapest.append(min(choices))
    found: list[list[int]] = []
    end = len(order)
    while end:
        begin = cheapest[end][1]
        found.insert(0, order[begin:end])
        end = begin
    return found


def pad_left(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [rows, longest], padding first so that every row's last token is its prompt's last."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def context_length(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20)


def key_value_bytes(model: Any) -> int:
    """Bytes of keys and values that one token leaves behind in all layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    grouped = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * grouped * size * next(model.parameters()).element_size())


def _ids(given: int | list[int] | None) -> list[int]:
    return [] if given is None else [given] if isinstance(given, int) else list(given)
