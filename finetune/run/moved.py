"""A run of some time ago: what it came from may be elsewhere by now.

with told_if_moved(folder):
    LLMFineTuner.of_run(folder.output_dir).benchmark()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from finetune.errors import DatasetNotFound, ModelNotFound
from finetune.recipe import dotted, read_yaml
from finetune.run_folder import RunFolder


@contextmanager
def told_if_moved(folder: RunFolder) -> Iterator[None]:
    """A block whose errors for a model, a teacher or rows that are not where the run's recipe says name the key that says so."""
    try:
        yield
    except (ModelNotFound, DatasetNotFound) as error:
        if not folder.recipe.is_file():
            raise
        recorded = ((key, place) for key, value in dotted(read_yaml(folder.recipe)) for place in _places(value))
        key = next((key for key, place in recorded if error.message.endswith(f" {place}.")), None)
        if key is None:
            raise
        near = f"{error.hint} " if error.hint and error.hint.startswith("Did you mean") else ""
        raise type(error)(error.message, hint=f"{near}If it was moved, write where it is now into `{key}` of {folder.recipe}.") from None


def _places(value: Any) -> Iterator[str]:
    """The places in a value of a recipe: one, several files with commas between them, or those of several teachers."""
    if isinstance(value, str):
        yield from {value, *(part.strip() for part in value.split(","))}
    elif isinstance(value, list):
        for each in value:
            yield from _places(each.get("source") if isinstance(each, Mapping) else each)
