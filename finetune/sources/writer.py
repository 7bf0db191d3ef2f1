"""A model in memory that writes: many texts at once, sampled, the same again from the same seed.

writer = Writer(model, tokenizer)
writer.continued([ids, ids], stops=[2], most=96, seed="42 0 prompts")     # a list of new tokens for each
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from finetune.training.decoding import greedy, pad_left, pads_safely, stop_ids
from finetune.training.head import causal_lm, context_length, padding_id

FEWEST_SHARED = 16  # tokens at the beginning of all prompts that are worth reading once


class Writer:
    """The least likely tokens are left out (nucleus sampling, Holtzman et al. 2019)."""

    TOP_P = 0.9

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer, self.pad = model, tokenizer, padding_id(tokenizer, model)
        self.stops, self.context = stop_ids(model, tokenizer), context_length(model)
        self._pads: bool | None = None

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answers(self, prompts: Sequence[list[int]], *, most: int, seed: str, temperature: float) -> list[str | None]:
        """The text of an answer to each prompt; None for one that does not end."""
        found = self.continued(prompts, stops=self.stops, most=most, seed=seed, temperature=temperature)
        return [str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip() if ended else None for tokens, ended in found]

    def continued(
        self, prompts: Sequence[list[int]], *, stops: Sequence[int], most: int, seed: str, temperature: float = 1.0
    ) -> list[tuple[list[int], bool]]:
        """New tokens up to a stop, and whether there was one, for each prompt. `seed` decides every draw; nothing outside changes it."""
        if self._pads is None and len(set(map(len, prompts))) > 1:
            self._pads = pads_safely(self.model, prompts, self.pad)
        together = [list(prompts)] if self._pads is not False else [[prompt] for prompt in prompts]
        device = next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=7).digest(), "big"))
            return [text for part in together for text in self._continued(part, list(stops), most, temperature)]

    @torch.inference_mode()
    def _continued(self, prompts: list[list[int]], stops: list[int], most: int, temperature: float) -> list[tuple[list[int], bool]]:
        inner, device = causal_lm(self.model), next(self.model.parameters()).device
        cache, shared = self._begun(inner, prompts, device)
        ids, mask = (tensor.to(device) for tensor in pad_left([prompt[shared:] for prompt in prompts], self.pad))
        begins = torch.tensor([prompt[:shared] for prompt in prompts], dtype=torch.long, device=device)
        ids, mask = torch.cat([begins, ids], 1), torch.cat([torch.ones_like(begins), mask], 1)
        sampled = {"do_sample": True, "top_p": self.TOP_P, "top_k": 0, "temperature": temperature}
        with greedy(inner, stops, pad=self.pad, max_new_tokens=most, **sampled):
            made = inner.generate(ids, attention_mask=mask, cache=cache)[:, ids.shape[1] :].tolist()
        found = []
        for tokens in made:
            kept = list(takewhile(lambda token: token not in stops, tokens))
            found.append((kept, len(kept) < len(tokens)))
        return found

    def _begun(self, inner: Any, prompts: list[list[int]], device: torch.device) -> tuple[Any, int]:
        """Keys and values of what all prompts begin with, read once for all of them, and how many tokens that is.

        Examples are most of a prompt: without this, reading them takes longer than writing. None and 0 where it would save nothing, and
        for models that keep something else.
        """
        columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)  # each has a token of its own left
        shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        if len(prompts) == 1 or shared < FEWEST_SHARED:
            return None, 0
        cache = inner(torch.tensor([prompts[0][:shared]], device=device), use_cache=True, logits_to_keep=1).cache
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None, 0
        cache.batch_repeat_interleave(len(prompts))
        return cache, shared
