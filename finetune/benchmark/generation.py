"""Greedy answers to held-out prompts, in batches of similar length, and how fast a model generates.

    texts = generate_answers(model, tokenizer, rows, max_new_tokens=64, reporter=reporter, stage="benchmark")
    generation_speed(model, tokenizer, rows)          # tokens per second, once

Batches depend on the rows and the model's shape alone, never on free memory, so the same model and rows give the same texts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from finetune.data.tokens import cut_prompt
from finetune.errors import BenchmarkError
from finetune.events import Notice, Progress, Reporter
from finetune.models.chat_template import answer_end_ids
from finetune.training.head import causal_lm, context_length, padding_id

KEY_VALUE_BYTES = 768 << 20  # of one batch's keys and values
LARGEST_BATCH = 64
STEP_IN_TOKENS = 32  # reading all weights once costs about as much time as computing this many tokens (measured on a CPU: 60 ms and 1.8 ms)
SPEED_PROMPTS, SPEED_TOKENS = 8, 16
PADDING, PROBE_TOKENS = 32, 3  # of the trial whether padding changes answers
FEWEST_NEW_TOKENS, MOST_NEW_TOKENS = 16, 256


@torch.inference_mode()
def generate_answers(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, max_new_tokens: int, reporter: Reporter, stage: str
) -> list[str]:
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
    texts, done = [""] * len(prompts), 0
    lengths = [len(prompt) for prompt in prompts]
    order = batches(lengths, max_new_tokens, key_value_bytes(model))
    if not pads_safely(model, prompts, pad):
        reporter.report(Notice(f"{type(inner).__name__} answers differently beside padding, so it answers one prompt at a time."))
        order = [[row] for batch in order for row in batch]
    with greedy(inner, stops, pad=pad, max_new_tokens=max_new_tokens):
        for batch in order:
            ids, mask = pad_left([prompts[row] for row in batch], pad)
            answers = inner.generate(ids.to(device), attention_mask=mask.to(device))[:, ids.shape[1] :]
            for row, answer in zip(batch, answers.tolist(), strict=True):
                kept = list(takewhile(lambda token: token not in stops, answer))
                texts[row] = tokenizer.decode(kept, skip_special_tokens=True).strip()
            done += len(batch)
            reporter.report(Progress(stage, done, len(prompts), "answers"))
    return texts


@torch.inference_mode()
def pads_safely(model: Any, prompts: Sequence[list[int]], pad: int) -> bool:
    """Whether a prompt gets the same first answers padded on the left as alone, tried on the shortest prompt beside the longest.

    A recurrent model may read the padding in spite of the mask. Prompts of one length need none.
    """
    short, long = min(prompts, key=len), max(prompts, key=len)
    if len(short) == len(long):
        return True
    inner, device = causal_lm(model), next(model.parameters()).device
    found = []
    for given in ([short], [short, long[: len(short) + PADDING]]):
        ids, mask = pad_left(given, pad)
        with greedy(inner, [], pad=pad, max_new_tokens=PROBE_TOKENS):
            made = inner.generate(ids.to(device), attention_mask=mask.to(device), output_logits=True, return_dict_in_generate=True)
        found.append([step[0].float() for step in made.logits])
    tolerance = 1e-3 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 0.05
    for alone, padded in zip(*found, strict=True):
        if not (alone - padded).abs().max() <= tolerance * alone.abs().max():
            return False
        if alone.argmax() != padded.argmax():  # two answers of nearly the same score: from here on they are about different texts
            break
    return True


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


def answer_budget(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> int:
    """Room for 95 % of the reference answers and their end token, within 16..256 tokens."""
    lengths = [len(tokenizer(row["reference"], add_special_tokens=False)["input_ids"]) for row in rows]
    return min(MOST_NEW_TOKENS, max(FEWEST_NEW_TOKENS, math.ceil(float(np.percentile(lengths, 95))) + 1))


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: those that ended the answers in training, and the model's own."""
    return sorted({*answer_end_ids(tokenizer), *_ids(getattr(model.generation_config, "eos_token_id", None))})


@contextmanager
def greedy(inner: Any, stops: list[int], *, pad: int, max_new_tokens: int, **sampled: Any) -> Iterator[None]:
    """Plain greedy search: what the checkpoint's own generation_config asks for (sampling, penalties, lengths) is set aside.

    `sampled` are settings of GenerationConfig for those who want to sample.

    The last hidden states of a batch are not contiguous; without this hook torch would copy a frozen head's weights once per row.
    """
    own = inner.generation_config
    hook = inner.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))
    ends = {"eos_token_id": stops or None, "pad_token_id": pad}
    inner.generation_config = GenerationConfig(**{"do_sample": False, **sampled}, max_new_tokens=max_new_tokens, use_cache=True, **ends)
    try:
        yield
    finally:
        inner.generation_config = own
        hook.remove()


def batches(lengths: Sequence[int], new_tokens: int, bytes_per_token: int) -> list[list[int]]:
    """Row numbers from the longest prompt to the shortest, cut into batches so that the total cost is lowest.

    A batch costs its padded prompts, plus reading the weights once per new token; its keys and values fit KEY_VALUE_BYTES.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    cheapest: list[tuple[int, list[list[int]]]] = [(0, [])]  # for the first n rows: their cost, and their batches
    for end in range(1, len(order) + 1):
        choices = []
        for begin in range(max(0, end - LARGEST_BATCH), end):
            rows, longest = end - begin, lengths[order[begin]]
            if rows == 1 or rows * (longest + new_tokens) * bytes_per_token <= KEY_VALUE_BYTES:
                choices.append((cheapest[begin][0] + rows * longest + new_tokens * STEP_IN_TOKENS, begin))
        cost, begin = min(choices)
        cheapest.append((cost, [*cheapest[begin][1], order[begin:end]]))
    return cheapest[-1][1]


def pad_left(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [rows, longest], padded on the left so that every row ends with its prompt."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def key_value_bytes(model: Any) -> int:
    """Bytes of keys and values per token, in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:  # a recurrent state of fixed size
        return 0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    grouped = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * grouped * size * next(model.parameters()).element_size())


def _ids(given: int | list[int] | None) -> list[int]:
    return [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, int)]
