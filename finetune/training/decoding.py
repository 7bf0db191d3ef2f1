"""Generation: prompts in batches of similar length, padded on the left, until an end token or a number of tokens.

    with greedy(inner, stop_ids(model, tokenizer), pad=pad, max_new_tokens=64):
        ids, mask = pad_left(prompts, pad)
        answers = inner.generate(ids, attention_mask=mask)

Batches depend on the rows and the model's shape alone, never on free memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from finetune.models.layer_configs import head_width, layer_configs
from finetune.models.templates.chat_template import answer_end_ids
from finetune.training.head import causal_lm

KEY_VALUE_BYTES = 768 << 20  # of one batch's keys and values
LARGEST_BATCH = 64
STEP_IN_TOKENS = 32  # reading all weights once costs about as much time as computing this many tokens (measured on a CPU: 60 ms and 1.8 ms)
PADDING, PROBE_TOKENS = 32, 3  # of the trial whether padding changes answers


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


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: those that ended the answers in training, and the model's own; `tokenizer` may be None."""
    return sorted(
        {*(answer_end_ids(tokenizer) if tokenizer is not None else ()), *_ids(getattr(model.generation_config, "eos_token_id", None))}
    )


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
    layers = layer_configs(model.config.get_text_config())
    if not getattr(layers[0], "num_attention_heads", None):  # a recurrent state of fixed size
        return 0
    width = sum((getattr(each, "num_key_value_heads", None) or each.num_attention_heads) * head_width(each) for each in layers)
    return int(2 * width * next(model.parameters()).element_size())


def _ids(given: int | list[int] | None) -> list[int]:
    return [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, int)]
