"""The labels of a row of tokens: the token itself where the model learns it, NO_LOSS elsewhere.

learned({"input_ids": [5, 6, 7], "labels": [-100, -100, 7]})                ->  [7]
learned({"input_ids": [5, 6, 7], "completion_mask": [0, 0, 1]})             ->  [7]
unpadded({"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0]})       ->  {"input_ids": [5, 6], ...}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from finetune.errors import DatasetError

NO_LOSS = -100  # as torch and transformers have it
LEARNED = ("loss_mask", "completion_mask", "assistant_masks", "assistant_mask", "label_mask", "train_mask")  # instead of labels
OF_TOKENS = ("input_ids", "labels", "attention_mask", "position_ids", *LEARNED)  # what a row has of each token


def labels_of(row: Mapping[str, Any]) -> Any:
    """The labels of a row; without, the tokens that all of its masks say are learned, or every token, as language models usually do."""
    labels, ids = row.get("labels"), row["input_ids"]
    if labels is not None:
        return labels
    masks = [row[name] for name in LEARNED if row.get(name) is not None]
    return where_all(masks, ids) if masks else ids


def where_all(masks: Sequence[Any], ids: Sequence[int]) -> list[int]:
    """The tokens of which all of these masks say that they are learned, NO_LOSS elsewhere."""
    return [token if all(wanted) else NO_LOSS for token, *wanted in zip(ids, *masks, strict=True)]


def unpadded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row without what its `attention_mask` hides, which a tokenizer with padding="max_length" has put there; mostly as it is.

    Raises DatasetError for columns of different lengths, and for a list of lists.
    """
    has_labels = row.get("labels") is not None  # beside which a mask means nothing, and may be of the row, as train_mask=True
    columns = {name: row[name] for name in OF_TOKENS if row.get(name) is not None and not (has_labels and name in LEARNED)}
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
