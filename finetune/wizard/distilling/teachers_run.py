"""The data of a teacher that is an earlier run of the user: proposed for its student instead of the built-in rows.

proposal("./my_expert")["dataset"]["source"]      # "support.csv", with its columns and the same rows held out
sentence(proposal("./my_expert"))                  # why it is proposed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.data.files import looks_local, named_files
from finetune.errors import BadInput
from finetune.foreign import printable
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.system.paths import looking_at, typed_path


def proposal(teacher: str) -> dict[str, Any]:
    """A recipe layer: data, columns, rows held out and seed of the teacher's run; empty if there is none, or its files are gone."""
    try:
        folder = RunFolder(teacher)
        with looking_at(teacher):
            if not folder.recipe.is_file():
                return {}
            recipe = Recipe.load(folder.recipe)
            source = recipe.dataset.source
            if recipe.dataset.kind != "dataset":
                return {}
            if looks_local(source) and not all(typed_path(name).exists() or "*" in name for name in named_files(source)):
                return {}
    except BadInput:
        return {}  # of another version, or no run; the review says what is wrong with the teacher
    dataset = {key: value for key, value in recipe.dataset.model_dump().items() if value is not None or key == "samples"}
    return {"dataset": dataset, "benchmark": {"rows": recipe.benchmark.rows}, "seed": recipe.seed}


def below(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The proposal that belongs below a person's own settings; empty if these name other data, or no teacher."""
    teacher, dataset = changes.get("teacher"), changes.get("dataset")
    source = teacher.get("source") if isinstance(teacher, Mapping) else teacher
    names_data = isinstance(dataset, str | list) or (isinstance(dataset, Mapping) and "source" in dataset)
    return proposal(source) if changes.get("approach") == "distillation" and isinstance(source, str) and not names_data else {}


def sentence(found: Mapping[str, Any]) -> str:
    """For people who would otherwise wonder where the data come from."""
    source = printable(found["dataset"]["source"])
    return f"The teacher learned from {source}: the same rows are proposed for its student, and the same ones are held out."
