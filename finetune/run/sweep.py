"""A sweep: one recipe with several values for some keys, a run for each combination.

    runs = combinations(["distillation.temperature=1,2", "training.epochs=1,3"], load)      # four, or [] if there is only one
    runs[0].name, runs[0].overrides       # "temperature-1-epochs-1", ["distillation.temperature=1", "training.epochs=1"]

Data, the teacher's cache and the scores of the models that the runs start from are made once: later runs find them in the cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from finetune.errors import BadInput, RecipeError
from finetune.recipe import Recipe

MOST = 26  # runs: the letters of the table
Load = Callable[[Sequence[str]], Recipe]


@dataclass(frozen=True)
class SweepRun:
    """One combination: `overrides` are its own --set arguments, `name` that of its folder within the recipe's."""

    name: str
    overrides: list[str]
    recipe: Recipe


def combinations(overrides: Sequence[str], load: Load) -> list[SweepRun]:
    """The runs of a sweep, each in a folder of its own; empty if no override has several values.

    A comma means several values only where the whole is no value of the key: `dataset.source=a.csv,b.csv` is one dataset of two files.
    """
    if _loads(overrides, load):
        return []
    split = [_split(text) for text in overrides]
    several = [
        _several(text, values, load, [*(other[0] for other in split[:at]), *(other[0] for other in split[at + 1 :])])
        for at, (text, values) in enumerate(zip(overrides, split, strict=True))
    ]
    if all(len(values) == 1 for values in several):
        return []
    chosen = list(product(*several))
    if len(chosen) > MOST:
        raise BadInput(f"These values make {len(chosen)} runs; at most {MOST} fit into one sweep.", hint="Give fewer values to --set.")
    found: dict[str, SweepRun] = {}
    for one in chosen:
        recipe = load(one)
        swept = [_name(text) for text, values in zip(one, several, strict=True) if len(values) > 1]
        name = "-".join(swept)
        if name in found:
            name = f"{name}-{len(found) + 1}"
        found[name] = SweepRun(name, list(one), recipe.with_changes({"output_dir": str(Path(recipe.output_dir) / name)}))
    return list(found.values())


def _split(text: str) -> list[str]:
    """One override for each part between commas; a YAML list or text in quotes is one value."""
    key, _, value = text.partition("=")
    values = [part.strip() for part in value.split(",")]
    whole = len(values) < 2 or not all(values) or value.strip().startswith(("[", "{", '"', "'"))
    return [text] if whole else [f"{key}={part}" for part in dict.fromkeys(values)]


def _several(text: str, values: list[str], load: Load, others: Sequence[str]) -> list[str]:
    """The values that an override sweeps over, beside what the `others` say; itself where it is one value, or none at all."""
    if len(values) == 1 or _loads([*others, text], load) or not all(_loads([*others, value], load) for value in values):
        return [text]
    return values


def _loads(overrides: Sequence[str], load: Load) -> bool:
    try:
        load(overrides)
    except RecipeError:
        return False
    return True


def _name(override: str) -> str:
    """`training.learning_rate=1e-4` as `learning_rate-1e-4`, safe in every file system."""
    key, _, value = override.partition("=")
    return re.sub(r"[^\w.+-]+", "-", f"{key.strip().rpartition('.')[2]}-{value}").strip("-.")
