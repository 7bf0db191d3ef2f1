"""Greedy answers to held-out prompts, in batches of similar length, and how fast a model generates.

    answers = generate_answers(model, tokenizer, rows, max_new_tokens=64, reporter=reporter, stage="benchmark")
    generation_speed(model, tokenizer, rows)          # tokens per second, once

Batches depend on the rows and the model's shape alone, never on free memory, so the same model and rows give the same texts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch

from finetune.benchmark.fitting import fitting
from finetune.data.tokens.encoder import cut_prompt
from finetune.errors import BenchmarkError
from finetune.events import Notice, Progress, Reporter
from finetune.training.decoding import batches, greedy, key_value_bytes, pad_left, pads_safely, stop_ids
from finetune.training.head import causal_lm, context_length, padding_id

SPEED_PROMPTS, SPEED_TOKENS = 8, 16
FEWEST_NEW_TOKENS, MOST_NEW_TOKENS = 16, 256
FEW_ROWS = 20  # below, 5 % are no row
HALF = "\ufffd"  # a letter whose other bytes are in tokens that were not written any more


class Generated(NamedTuple):
    """An answer, and whether an end token ended it."""

    text: str
    ended: bool


@torch.inference_mode()
def generate_answers(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, max_new_tokens: int, reporter: Reporter, stage: str
) -> list[Generated]:
    """Continue every row's `prompt_ids` greedily until an end token or `max_new_tokens`."""
    room = context_length(model) - max_new_tokens
    if room < 1:
        raise BenchmarkError(
            f"Answers of {max_new_tokens} tokens do not fit into the model's context of {context_length(model)}.",
            hint="Lower it: --set benchmark.max_new_tokens=64",
        )
    stops = stop_ids(model, tokenizer)
    # Without a prompt, text starts after an end token.
    prompts = [cut_prompt(row["prompt_ids"], room, tokenizer) or stops[:1] for row in rows]
    pad = padding_id(tokenizer, model)
    inner, device = causal_lm(model), next(model.parameters()).device
    found, done = [Generated("", False)] * len(prompts), 0
    lengths = [len(prompt) for prompt in prompts]
    order = batches(lengths, max_new_tokens, key_value_bytes(model))
    if not pads_safely(model, prompts, pad):
        reporter.report(Notice(f"{type(inner).__name__} gives other answers with padding, so it answers one prompt at a time."))
        order = [[row] for batch in order for row in batch]
    with greedy(inner, stops, pad=pad, max_new_tokens=max_new_tokens):
        for batch in order:
            ids, mask = pad_left([prompts[row] for row in batch], pad)
            answers = inner.generate(ids.to(device), attention_mask=mask.to(device))[:, ids.shape[1] :]
            for row, answer in zip(batch, answers.tolist(), strict=True):
                kept = list(takewhile(lambda token: token not in stops, answer))
                text, ended = tokenizer.decode(kept, skip_special_tokens=True), len(kept) < len(answer)
                found[row] = Generated((text if ended else text.rstrip(HALF)).strip(), ended)
            done += len(batch)
            reporter.report(Progress(stage, done, len(prompts), "answers"))
    return found


@torch.inference_mode()
def generation_speed(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> float:
    """Tokens per second of SPEED_TOKENS new tokens for SPEED_PROMPTS prompts at once, prompts included; `tokenizer` may be None.

    No end token stops it: a model with short answers must not look slower than one that never ends.
    """
    tokens = min(SPEED_TOKENS, context_length(model) // 2)
    room = context_length(model) - tokens
    prompts = [cut_prompt(row["prompt_ids"], room, tokenizer) or [0] for row in (list(rows) * SPEED_PROMPTS)[:SPEED_PROMPTS]]
    inner, device = causal_lm(model), next(model.parameters()).device
    pad = padding_id(tokenizer, model)
    ids, mask = (tensor.to(device) for tensor in pad_left(prompts, pad))
    with greedy(inner, [], pad=pad, max_new_tokens=tokens):
        started = time.perf_counter()
        inner.generate(ids, attention_mask=mask)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(prompts) * tokens / (time.perf_counter() - started)


def answer_budget(rows: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> int:
    """Room for 95 % of the reference answers, which have so many tokens, and their end token, within 16..256 tokens.

    Where a cut answer is wrong, there is room for all of them.
    """
    share = 100 if len(rows) < FEW_ROWS or fitting(rows) else 95
    longest = math.ceil(float(np.percentile(lengths, share)))
    return min(MOST_NEW_TOKENS, max(FEWEST_NEW_TOKENS, longest + 1))


def answer_lengths(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The tokens of each reference answer, without its end token."""
    return [len(tokenizer(row["reference"], add_special_tokens=False)["input_ids"]) for row in rows]
