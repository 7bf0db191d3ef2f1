"""Split a batch into sub-batches of rows of similar length, so that a CPU computes little padding and stores few activations.

    for piece in pieces(batch, lengths=[351, 276, 281, 456], budget=512):
        ...                          # [480], [352], [288], [288]: 1,408 tokens where one block would have 1,824

Widths are rounded up, so that there are few of them: for every new shape a CPU's library generates new code and the allocator leaves a
gap. That costs more memory with every step, eventually a gigabyte, and more time than a few tokens of padding.

Losses are sums divided by the supervised tokens of the whole step, so the gradients of the pieces add up to that of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.tokens.labels import NO_LOSS

WIDTHS = 32  # every width is a multiple of it


def pieces(batch: dict[str, Any], lengths: list[int], budget: int, *, widest: int, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Sub-batches, longest rows first, of at most `budget` padded tokens (at least one row) and `most` rows, each as wide as its longest.

    Tensors are [rows, length] or [rows]; `lengths` are the true lengths of the rows, `widest` what the model can read.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    tensors = tensors_of(batch)
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        width = max(longest, min(math.ceil(longest / WIDTHS) * WIDTHS, widest))
        rows = order[start : start + min(max(1, budget // width), most or len(order))]
        chosen = torch.tensor(rows, device=batch["input_ids"].device)
        yield {name: _wide(tensor[chosen], width, name) if tensor.dim() > 1 else tensor[chosen] for name, tensor in tensors.items()}
        start += len(rows)


def tensors_of(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a batch, whose rows can be chosen."""
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


def _wide(rows: Tensor, width: int, name: str) -> Tensor:
    """[rows, length] cut or padded to [rows, width]; nothing looks at the padding."""
    return nn.functional.pad(rows[:, :width], (0, max(0, width - rows.shape[1])), value=NO_LOSS if name == "labels" else 0)
