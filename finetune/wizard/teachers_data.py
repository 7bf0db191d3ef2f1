"""The data that an earlier run learned from, proposed where that run's model becomes a teacher.

    with_its_data(draft, "./expert")        # the draft with ./expert's dataset, columns and settings; or as it was

A student of an expert learns what the expert knows from the expert's own rows. Its held-out rows stay held out: the split is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.data.files import looks_local
from finetune.errors import BadInput, RecipeError
from finetune.paths import typed_path
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.wizard.draft import Draft


def with_its_data(draft: Draft, teacher: str) -> Draft:
    """The draft with the dataset, the benchmark's rows and the seed of the teacher's own run, if it is one and its data is still there."""
    try:
        folder = RunFolder.of(teacher)
        recipe = Recipe.load(folder.recipe)
    except (BadInput, RecipeError):
        return draft
    source = _found(recipe.dataset.source, folder.output_dir)
    if source is None:
        return draft
    dataset: dict[str, Any] = recipe.dataset.model_dump(mode="json", exclude_defaults=True)
    rows = {"rows": recipe.benchmark.rows}
    return {**draft, "dataset": {**dataset, "samples": recipe.dataset.samples, "source": source}, "benchmark": rows, "seed": recipe.seed}


def _found(source: str, run: Path) -> str | None:
    """Where a run's data is now: as the run names it, or seen from the folder that the run is in; None if it is gone."""
    if source.startswith("builtin:") or not looks_local(source):
        return source
    if typed_path(source).exists():
        return source
    beside = run.parent / source
    return str(beside) if beside.exists() else None
