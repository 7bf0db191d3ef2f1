"""Rows to one batch: right-padded to its longest row.

Collator(pad_id=0)([{"input_ids": [5, 6], "labels": [-100, 6]}, ...])  ->  {"input_ids": [rows, longest], "labels": [rows, longest]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from finetune.data.tokens.labels import NO_LOSS, labels_of, unpadded


class Collator:
    """Pads with `pad_id`, labels with -100; rows without labels, or a mask of what is learned, learn every token.

    `row` and `teacher_number` pass as LongTensors. No attention mask is made unless `mask` is set: padding is on the right, and causal
    attention never looks there. What an `attention_mask` of a row hides is padding, and left out. `position_ids`, of several texts packed
    into a row, pass.
    """

    def __init__(self, pad_id: int, *, mask: bool = False) -> None:
        self.pad_id, self.mask = pad_id, mask

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [unpadded(row) for row in rows]
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), longest), self.pad_id, dtype=torch.long),
            "labels": torch.full((len(rows), longest), NO_LOSS, dtype=torch.long),
        }
        if self.mask:
            batch["attention_mask"] = torch.zeros((len(rows), longest), dtype=torch.long)
        if rows[0].get("position_ids") is not None:
            batch["position_ids"] = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][number, :length] = torch.as_tensor(row["input_ids"])
            batch["labels"][number, :length] = torch.as_tensor(labels_of(row))
            if self.mask:
                batch["attention_mask"][number, :length] = 1
            if "position_ids" in batch:
                batch["position_ids"][number, :length] = torch.as_tensor(row["position_ids"])
        for name in ("row", "teacher_number"):
            if name in rows[0]:
                batch[name] = torch.as_tensor([row[name] for row in rows], dtype=torch.long)
        return batch
