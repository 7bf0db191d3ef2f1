"""How long a benchmark of one model would take, from a few of its tokens.

benchmark_seconds(context, model)          # 21.4
"""

from __future__ import annotations

import time
from typing import Any

import torch

from finetune.benchmark.generation import answer_budget, answer_lengths
from finetune.benchmark.perplexity import answer_losses
from finetune.benchmark.scoring import chosen_rows
from finetune.data.tokens.encoder import cut_prompt
from finetune.events import Recorder
from finetune.run_context import RunContext
from finetune.training.decoding import STEP_IN_TOKENS, batches, greedy, key_value_bytes, pad_left
from finetune.training.head import causal_lm, context_length, padding_id

ROWS = 2  # of usual length, whose losses are timed and which are answered
TOKENS = 4  # that are generated


@torch.inference_mode()
def benchmark_seconds(context: RunContext, model: Any, *, answers: bool = True) -> float:
    """Seconds of scoring `model` on the held-out rows; without `answers` only of their losses."""
    spec = context.recipe.benchmark
    rows = chosen_rows(context.data.held_out, spec, context.recipe.seed)
    was_training = model.training
    model.eval()
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    some = by_length[max(0, (len(rows) - ROWS) // 2) :][:ROWS]
    answer_losses(model, some[:1], reporter=Recorder(), stage="measure")
    start = time.perf_counter()
    answer_losses(model, some, reporter=Recorder(), stage="measure")
    token = (time.perf_counter() - start) / sum(len(row["input_ids"]) for row in some)
    seconds = token * sum(len(row["input_ids"]) for row in rows)
    if answers:
        seconds += _answers(context, model, rows, some)
    model.train(was_training)
    return seconds


def _answers(context: RunContext, model: Any, rows: list[dict[str, Any]], some: list[dict[str, Any]]) -> float:
    """Seconds of all batches at their full length; reading a prompt and making a token are timed on `some`."""
    spec, tokenizer, inner = context.recipe.benchmark, context.tokenizer, causal_lm(model)
    budget = answer_budget(rows, answer_lengths(tokenizer, rows)) if spec.max_new_tokens == "auto" else spec.max_new_tokens
    room = max(1, context_length(model) - max(budget, 1 + TOKENS))
    prompts = [cut_prompt(row["prompt_ids"], room, tokenizer) or [0] for row in rows]
    planned = batches([len(prompt) for prompt in prompts], budget, key_value_bytes(model))
    timed_on = [cut_prompt(row["prompt_ids"], room, tokenizer) or [0] for row in some]
    pad = padding_id(tokenizer, model)
    ids, mask = (tensor.to(inner.device) for tensor in pad_left(timed_on, pad))

    def timed(new_tokens: int) -> float:
        with greedy(inner, [], pad=pad, max_new_tokens=new_tokens):
            start = time.perf_counter()
            inner.generate(ids, attention_mask=mask).cpu()
            return time.perf_counter() - start

    reading = timed(1)
    step = max(timed(1 + TOKENS) - reading, 0.0) / TOKENS / (STEP_IN_TOKENS + len(ids))
    token = reading / ids.numel()

    def seconds(rows: int, longest: int, new_tokens: int) -> float:
        return rows * longest * token + new_tokens * step * (STEP_IN_TOKENS + rows)

    return sum(seconds(len(batch), len(prompts[batch[0]]), budget) for batch in planned)
