"""Numbers of classes are learned by the names that a dataset gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_files import learned, read

from finetune.data.class_labels import stored_names, with_names
from finetune.data.in_memory import records

CLASSES = {"names": ["negative", "positive"], "_type": "ClassLabel"}


def metadata(**features: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def test_a_text_of_a_parquet_file_is_the_prompt_of_its_class_by_name(tmp_path: Path) -> None:
    texts = [f"It was {word} {number}" for number in range(8) for word in ("good", "bad")]
    table = pa.table({"text": texts, "label": [1, 0] * 8}).replace_schema_metadata(metadata(text={"_type": "Value"}, label=CLASSES))
    pq.write_table(table, tmp_path / "reviews.parquet")
    assert learned(read(tmp_path / "reviews.parquet"))[:2] == [("It was good 0", "positive"), ("It was bad 0", "negative")]


def test_a_dataset_in_memory_brings_its_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=CLASSES["names"])})
    given = datasets.Dataset.from_dict({"text": ["Good", "Bad", "?"], "label": [1, 0, -1]}, features=features)
    assert [row["label"] for row in records(given)] == ["positive", "negative", None]


@pytest.mark.parametrize("names", [["A", "B"], ["0", "1"], ["choice1", "choice2"], ["negative", 3], "negative", []])
def test_names_that_say_nothing_or_choose_a_column_are_left_alone(names: Any) -> None:
    others = {"choice1": {"_type": "Value"}, "choice2": {"_type": "Value"}}
    assert stored_names(metadata(label={"names": names, "_type": "ClassLabel"}, **others)) == {}


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'{"info": null}', b'{"info": {"features": {"label": 1}}}', b"[" * 9999])
def test_damaged_metadata_names_nothing(damage: bytes) -> None:
    assert stored_names({b"huggingface": damage}) == stored_names({}) == stored_names(None) == {}


@pytest.mark.parametrize(("value", "read"), [(0, "negative"), (-1, None), (2, 2), (True, True), ("positive", "positive"), (None, None)])
def test_a_number_without_a_name_stays(value: Any, read: Any) -> None:
    assert with_names({"label": value}, {"label": CLASSES["names"]}) == {"label": read}
