"""Rows that are in memory: what is taken for rows, what each becomes, and the file that a recipe names."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest

from finetune.data.in_memory import is_rows, records, saved
from finetune.errors import DatasetError, EmptyDataset, RecipeError
from finetune.recipe import Recipe
from finetune.run.given import recipe_of
from finetune.runtime import RuntimeOptions

PAIRS = [{"prompt": "2 + 2", "completion": "4"}, {"prompt": "3 + 3", "completion": "6"}]


class Table:
    """What is used of a pandas table."""

    columns = ["prompt", "completion"]

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return PAIRS

    def __iter__(self) -> Any:
        return iter(self.columns)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PAIRS, PAIRS),
        (tuple(PAIRS), PAIRS),
        (iter(PAIRS), PAIRS),
        ({"prompt": ["2 + 2", "3 + 3"], "completion": ["4", "6"]}, PAIRS),
        ([("2 + 2", "4"), ["3 + 3", "6"]], PAIRS),
        (Table(), PAIRS),
        (["Once upon a time", "Then they left"], [{"text": "Once upon a time"}, {"text": "Then they left"}]),
        ([[{"role": "user", "content": "Hi"}]], [{"messages": [{"role": "user", "content": "Hi"}]}]),
    ],
)
def test_rows_in_every_shape_become_records(given: Any, expected: list[dict[str, Any]]) -> None:
    assert records(given) == expected


def test_a_named_index_of_a_table_is_a_column() -> None:
    table = pandas.DataFrame(PAIRS)
    assert records(table.set_index("prompt")) == records(table) == records(pyarrow.Table.from_pandas(table)) == PAIRS
    assert records(table.set_index("prompt", drop=False)) == PAIRS
    assert records(table.set_index(["prompt", "completion"])) == PAIRS


class ByNumber:
    """As a torch.utils.data.Dataset often is: what makes a row does not say where the rows end."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> dict[str, str]:
        return {"text": f"row {number}"}


def test_rows_by_number_end_where_their_length_says() -> None:
    assert is_rows(ByNumber())
    assert records(ByNumber()) == [{"text": "row 0"}, {"text": "row 1"}, {"text": "row 2"}]


def test_a_dataset_of_the_library_is_rows_and_several_splits_are_named() -> None:
    import datasets

    rows = datasets.Dataset.from_list(PAIRS)
    assert records(rows) == PAIRS
    assert is_rows(rows)
    assert records(datasets.DatasetDict({"train": rows})) == PAIRS  # what load_dataset makes of a file
    with pytest.raises(DatasetError, match="several splits: train, test") as refused:
        records(datasets.DatasetDict({"train": rows, "test": rows}))
    assert "rows['train']" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "contains no rows"),
        ([3], "Row 1 is of type int, which is not a row."),
        ([{"prompt": "a", "completion": "b"}, None], "Row 2 is of type NoneType, which is not a row."),
        ({"prompt": ["a"], "completion": ["b", "c"]}, "The columns are not equally long: prompt 1, completion 2."),
    ],
)
def test_what_is_no_row_is_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence.replace(".", r"\.")):
        records(given)


@pytest.mark.parametrize("named", ["rows.jsonl", Path("rows.jsonl"), None, ["a.jsonl", "b.csv"], {"source": "x"}])
def test_names_of_files_are_no_rows(named: Any) -> None:
    assert not is_rows(named)


def test_the_file_holds_the_rows_and_the_same_rows_have_the_same_file(tmp_path: Path) -> None:
    given = [{"text": "Łódź", "number": np.int64(3), "day": datetime.date(2024, 5, 31), "list": np.array([1, 2])}]
    path = saved(given, tmp_path)
    assert json.loads(Path(path).read_text(encoding="utf-8")) == {"text": "Łódź", "number": 3, "day": "2024-05-31", "list": [1, 2]}
    assert saved(iter(given), tmp_path) == path
    assert saved([*given, *given], tmp_path) != path


def test_what_is_neither_text_nor_a_number_is_refused_and_an_empty_cell_is_empty(tmp_path: Path) -> None:
    class NAType:
        """As pandas calls it."""

    path = saved([{"price": Decimal("1.50"), "file": Path("a.txt"), "none": NAType()}], tmp_path)
    assert json.loads(Path(path).read_text()) == {"price": "1.50", "file": "a.txt", "none": None}
    for value in (b"a", object(), {1, 2}):
        with pytest.raises(DatasetError, match=f"A row has a value of type {type(value).__name__}, which is not text"):
            saved([{"text": "a", "image": value}], tmp_path)


# What LLMFineTuner takes.


def made(given: Any, tmp_path: Path, **keys: Any) -> Recipe:
    return recipe_of(given, keys, RuntimeOptions(cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("wrap", [lambda rows: {"dataset": rows}, lambda rows: {"dataset": {"source": rows}}])
def test_rows_under_dataset_become_a_file_of_which_every_row_is_used(wrap: Any, tmp_path: Path) -> None:
    recipe = made(wrap(PAIRS), tmp_path)
    assert [json.loads(line) for line in Path(recipe.dataset.source).read_text().splitlines()] == PAIRS
    assert recipe.dataset.samples is None
    assert made({"dataset": {"prompt": ["2 + 2", "3 + 3"], "completion": ["4", "6"]}}, tmp_path).dataset.source == recipe.dataset.source


def test_what_else_is_said_about_given_rows_stays(tmp_path: Path) -> None:
    recipe = made({"dataset": {"source": PAIRS, "samples": 2, "held_out": "0.5"}}, tmp_path)
    assert (recipe.dataset.samples, recipe.dataset.held_out) == (2, 0.5)


def test_names_of_files_stay_names(tmp_path: Path) -> None:
    assert made({"dataset": ["a.jsonl", Path("b.csv")]}, tmp_path).dataset.source == "a.jsonl, b.csv"
    assert made({"dataset": "gsm8k", "model": Path("here")}, tmp_path).model_dump()["model"] == "here"


def test_a_file_a_mapping_a_recipe_and_keywords_are_recipes(tmp_path: Path) -> None:
    Recipe.from_layers({"seed": 7, "training": {"epochs": 2}}).save(tmp_path / "recipe.yaml")
    for given in (tmp_path / "recipe.yaml", str(tmp_path / "recipe.yaml"), Recipe.load(tmp_path / "recipe.yaml"), {"seed": 7}):
        recipe = made(given, tmp_path, training={"epochs": "3", "learning_rate": "2e-4", "batch_size": np.int64(5)})
        assert (recipe.seed, recipe.training.epochs, recipe.training.learning_rate, recipe.training.batch_size) == (7, 3, 2e-4, 5)
    assert made(None, tmp_path, model="gpt2").model == "gpt2"


@pytest.mark.parametrize(
    ("given", "keys", "sentence"),
    [
        ("gpt2", {}, "There is no recipe file gpt2."),
        ("missing.yaml", {}, "There is no recipe file missing.yaml."),
        (3, {}, "A recipe cannot be made from a value of type int."),
        ([{"prompt": "a"}], {}, "A recipe cannot be made from a value of type list."),
        ({}, {"epochs": 3}, "epochs is not a recipe key. Did you mean training.epochs?"),
        ({}, {"reportr": 1}, "LLMFineTuner has no keyword reportr. Did you mean reporter?"),
        ({}, {"device": "cpu"}, "device is not a recipe key."),
        ({}, {"load_in": "8bit"}, "load_in is not a recipe key. Did you mean teacher.load_in?"),
        ({}, {"teachers": [{"load_inn": "8bit"}, "b"]}, "teachers.0.load_inn is not a recipe key. Did you mean teachers.load_in?"),
        ({}, {"dataset": object()}, "dataset must be a mapping of keys."),
    ],
)
def test_what_is_no_recipe_is_one_sentence(given: Any, keys: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        made(given, tmp_path, **keys)
    assert refused.value.message == sentence


def test_no_rows_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset):
        made({"dataset": []}, tmp_path)
