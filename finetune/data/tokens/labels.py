"""The labels of a row of tokens: the token itself where the model learns it, NO_LOSS elsewhere.

learned({"input_ids": [5, 6, 7], "labels": [-100, -100, 7]})                ->  [7]
unpadded({"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0]})       ->  {"input_ids": [5, 6], ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any

from finetune.errors import DatasetError

NO_LOSS = -100  # as torch and transformers have it
OF_TOKENS = ("input_ids", "labels", "attention_mask", "position_ids")  # what a row has of each token


def labels_of(row: Mapping[str, Any]) -> Any:
    """The labels of a row; all of its tokens where it has none, as language models are usually trained."""
    labels = row.get("labels")
    return row["input_ids"] if labels is None else labels


def unpadded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row without what its `attention_mask` hides, which a tokenizer with padding="max_length" has put there; mostly as it is.

    Raises DatasetError for columns of different lengths, and for a list of lists.
    """
    columns = {name: row[name] for name in OF_TOKENS if row.get(name) is not None}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise DatasetError(f"A row has {told}.", hint="Each token has one of them: make the columns equally long.")
    if lengths["input_ids"] and (isinstance(first := row["input_ids"][0], list | tuple) or getattr(first, "ndim", 0)):
        raise DatasetError("The input_ids of a row are not a flat list.", hint="Tokenise each row without return_tensors.")
    mask = columns.get("attention_mask")
    if mask is None or all(seen := mask.tolist() if hasattr(mask, "tolist") else mask):
        return row
    return {**row, **{name: list(compress(column, seen)) for name, column in columns.items()}}


def learned(row: Mapping[str, Any]) -> list[int]:
    """The tokens of a row that have a loss: not the first, which nothing predicts."""
    return [label for label in list(labels_of(unpadded(row)))[1:] if label != NO_LOSS]
