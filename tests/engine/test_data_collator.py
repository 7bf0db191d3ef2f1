"""Rows to batches."""

from __future__ import annotations

import torch

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.labels import learned

ROWS = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "length": 3, "row": 9}, {"input_ids": [8], "labels": [8], "length": 1, "row": 4}]


def test_rows_are_padded_on_the_right_to_the_longest_and_padding_has_no_loss() -> None:
    batch = Collator(pad_id=1)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["row"].tolist() == [9, 4]
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}
    assert "attention_mask" not in batch


def test_a_mask_is_made_on_request_and_row_numbers_only_where_there_are_some() -> None:
    batch = Collator(pad_id=1, mask=True)([{"input_ids": [5, 1], "labels": [5, 1]}, {"input_ids": [8], "labels": [8]}])
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]], "a real token that equals the padding is not masked"
    assert "row" not in batch


def test_of_several_masks_all_must_say_that_a_token_is_learned_and_beside_labels_none_is_read() -> None:
    row = {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}
    assert Collator(pad_id=0)([row])["labels"].tolist() == [[-100, 6, -100, 8]]
    assert learned({"input_ids": [5, 6], "labels": [5, 6], "train_mask": True}) == [6]
