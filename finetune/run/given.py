"""What Python hands to `LLMFineTuner`, as a recipe: a Recipe, its keys, a YAML file, and keywords over any of them.

recipe_of("recipe.yaml", {"training": {"epochs": "3"}}, runtime)
recipe_of({"model": Path("my_model"), "dataset": [{"prompt": "2 + 2", "completion": "4"}, ...]}, {}, runtime)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from finetune.errors import RecipeError
from finetune.formatting import enumerated
from finetune.recipe import DistillationSpec, Recipe, TrainingSpec
from finetune.recipe.settings import DatasetSpec
from finetune.registry import did_you_mean
from finetune.runtime import RuntimeOptions

KEYWORDS = [*DistillationSpec.model_fields, *TrainingSpec.model_fields]
BESIDE = ("reporter", "runtime")  # keywords of LLMFineTuner that are no keys of a recipe
WAYS = 'A recipe is a YAML file, a mapping such as {"training": {"epochs": 1}}, or a Recipe.'


def recipe_of(given: Any, keys: Mapping[str, Any], runtime: RuntimeOptions) -> Recipe:
    """The recipe that is meant; rows in memory are written into the cache. Raises RecipeError or DatasetError."""
    _check_keywords(keys)
    over = _keys(keys, runtime)
    if isinstance(given, Recipe):
        return given.with_changes(over) if over else given
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        if not os.path.exists(path) and not str(path).endswith((".yaml", ".yml")):
            raise RecipeError(f"There is no recipe file {path}.", hint=f'{WAYS} To name a model: LLMFineTuner(model="{path}").')
        return Recipe.load(path, layers=(over,))
    if given is not None and not isinstance(given, Mapping):
        raise RecipeError(f"A recipe cannot be made from a value of type {type(given).__name__}.", hint=WAYS)
    return Recipe.from_layers(_keys(given or {}, runtime), over)


def distillation_changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a distillation (temperature, epochs, ...) as changes of a recipe; RecipeError for one that is none."""
    unknown = [name for name in given if name not in KEYWORDS]
    if unknown:
        raise RecipeError(
            f"train_distillation has no keyword {unknown[0]}.{did_you_mean(unknown[0], KEYWORDS)}",
            hint=f"It takes the keys of `distillation` and `training`: {', '.join(sorted(KEYWORDS))}.",
        )
    ours = {name: value for name, value in given.items() if name in DistillationSpec.model_fields}
    return {"approach": "distillation", "distillation": ours, "training": {name: given[name] for name in given if name not in ours}}


def _check_keywords(keys: Mapping[str, Any]) -> None:
    """Raises RecipeError for an option of RuntimeOptions, and for what may be meant as another keyword of `LLMFineTuner`."""
    options = [field.name for field in fields(RuntimeOptions)]
    for name, value in keys.items():
        if name in Recipe.model_fields:
            continue
        if name in options:
            raise RecipeError(f"{name} is not a recipe key.", hint=f"Pass it with runtime=RuntimeOptions({name}={value!r}).")
        meant = did_you_mean(name, [*Recipe.model_fields, *BESIDE])
        if any(other in meant for other in BESIDE):
            raise RecipeError(f"LLMFineTuner has no keyword {name}.{meant}", hint=f"Beside recipe keys it takes {enumerated(BESIDE)}.")


def _keys(given: Mapping[Any, Any], runtime: RuntimeOptions) -> dict[str, Any]:
    """Keys as YAML would give them: paths as text, numbers of numpy as numbers, rows as the file they are in."""
    return {str(key): _rows(value, runtime) if key == "dataset" else _value(value) for key, value in given.items()}


def _rows(dataset: Any, runtime: RuntimeOptions) -> Any:
    from finetune.data.in_memory import is_rows, saved

    if isinstance(dataset, Mapping):
        if dataset and not set(dataset) & set(DatasetSpec.model_fields):
            columns = all(is_rows(values) or isinstance(values, list) for values in dataset.values())
            splits = any(hasattr(values, "column_names") for values in dataset.values())
            return {"source": saved(dataset, runtime.cache_dir), "samples": None} if columns or splits else _value(dataset)
        if is_rows(dataset.get("source")):
            others = {key: value for key, value in dataset.items() if key != "source"}
            return {"samples": None, **_value(others), "source": saved(dataset["source"], runtime.cache_dir)}
        return _value(dataset)
    if is_rows(dataset):
        return {"source": saved(dataset, runtime.cache_dir), "samples": None}
    if callable(dataset):
        raise RecipeError("dataset is a function.", hint="Pass the rows that it returns: dataset=rows().")
    return _value({"source": dataset}) if isinstance(dataset, list | tuple) else _value(dataset)


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value
