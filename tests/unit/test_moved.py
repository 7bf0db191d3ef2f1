"""A run whose model, teachers or rows are elsewhere by now: the error names the key of its recipe that says where they were."""

from __future__ import annotations

import pytest
import yaml

from finetune.errors import DatasetNotFound, ModelNotFound
from finetune.run.moved import told_if_moved
from finetune.run_folder import RunFolder

RECIPE = {
    "teachers": [{"source": "./first"}, {"source": "./second", "weight": 0.5}],
    "model": "./small",
    "dataset": {"source": "a.jsonl, more/b.jsonl"},
}


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (ModelNotFound("There is no folder ./small."), "model"),
        (ModelNotFound("There is no folder ./second."), "teachers"),
        (ModelNotFound("The adapter in ./x needs its base model. There is no folder ./first."), "teachers"),
        (DatasetNotFound("There is no file a.jsonl."), "dataset.source"),
        (DatasetNotFound("There is no file more/b.jsonl.", hint="Did you mean more/c.jsonl?"), "dataset.source"),
    ],
)
def test_what_was_moved_is_told_with_the_key_that_names_its_place(tmp_path, error, key):
    run = RunFolder(tmp_path)
    run.recipe.parent.mkdir()
    run.recipe.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(type(error), match=error.message) as told, told_if_moved(run):
        raise error
    near = f"{error.hint} " if error.hint else ""
    assert told.value.hint == f"{near}If it was moved, write where it is now into `{key}` of {run.recipe}."


def test_an_error_about_another_place_is_left_as_it_is(tmp_path):
    run = RunFolder(tmp_path)
    run.recipe.parent.mkdir()
    run.recipe.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(ModelNotFound) as told, told_if_moved(run):
        raise ModelNotFound("There is no folder elsewhere.", hint="as before")
    assert told.value.hint == "as before"
