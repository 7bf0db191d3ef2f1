"""The labels of a row of tokens: the token itself where the model learns it, NO_LOSS elsewhere.

learned({"input_ids": [5, 6, 7], "labels": [-100, -100, 7]})  ->  [7]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_LOSS = -100  # as torch and transformers have it


def labels_of(row: Mapping[str, Any]) -> Any:
    """The labels of a row; all of its tokens where it has none, as language models are usually trained."""
    labels = row.get("labels")
    return row["input_ids"] if labels is None else labels


def learned(row: Mapping[str, Any]) -> list[int]:
    """The tokens of a row that have a loss: not the first, which nothing predicts."""
    return [label for label in list(labels_of(row))[1:] if label != NO_LOSS]
