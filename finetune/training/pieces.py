"""A batch in pieces of rows of similar length, so that a CPU neither computes on padding nor keeps the activations of the whole batch.

    for piece in pieces(batch, lengths=[351, 276, 281, 456], budget=512):
        ...                          # [456], [351], [281], [276]: 1,364 tokens where one block would have 1,824

Losses are sums divided by the supervised tokens of the whole step, so the gradients of the pieces add up to that of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from finetune.training.steps import CPU_TOKENS as CPU_TOKENS


def pieces(batch: dict[str, Any], lengths: list[int], budget: int, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Sub-batches, longest rows first, of at most `budget` padded tokens (at least one row) and `most` rows, each as wide as its longest.

    Tensors are [rows, length] or [rows]; `lengths` are the true lengths of the rows.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        width = max(1, lengths[order[start]])
        rows = order[start : start + min(max(1, budget // width), most or len(order))]
        chosen = torch.tensor(rows, device=batch["input_ids"].device)
        yield {name: tensor[chosen][:, :width] if tensor.dim() > 1 else tensor[chosen] for name, tensor in batch.items()}
        start += len(rows)
