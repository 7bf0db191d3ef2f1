"""What may leave this machine with an upload: Hub ids instead of paths, and no text from the user's own files.

public_recipe(recipe).dataset.source      # "/data/ada/letters.jsonl" -> "private-data.jsonl"
base_model(recipe)                        # "HuggingFaceTB/SmolLM2-135M-Instruct", also through a folder of an earlier run
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.benchmark.harness import is_file
from finetune.data.endings import ARCHIVES, KINDS, ending_of
from finetune.data.files import looks_local
from finetune.errors import ModelError
from finetune.hub.cache import cached
from finetune.hub.datasets import PINNED
from finetune.model_folder import adapter_base, is_adapter
from finetune.models.location import ModelSource, parse
from finetune.recipe import DatasetSpec, Recipe
from finetune.recipe.settings import GENERATED

BASE = "base_model_name_or_path"
PATH_KEY = re.compile(r"(_or_path|_path|_file|_dir|_folder)$")  # where transformers and peft record what something was loaded from


def base_model(recipe: Recipe, continued: Mapping[str, Any] | None = None) -> str | None:
    """The Hub id of the model that a run started from; None if it only exists on this machine.

    `continued` is the continued.json of a run that trained an earlier adapter further: the base is that adapter's.
    """
    return hub_model(str(continued["base"]) if continued else _start(recipe))


def base_revision(recipe: Recipe) -> str | None:
    """The commit of the model that a run started from, if its recipe has one."""
    source = _source(_start(recipe))
    return source.revision if source else None


def adapters_base(recipe: Recipe, home: Path | None = None) -> str | None:
    """The Hub id of the exact model that a run's adapter needs; None if others could not load the adapter.

    `home` is the folder of the finished run, which knows it best; before, an earlier adapter that is trained further names its own base. A
    student made from its teacher, a file and an earlier whole model exist only on this machine; an adapter as a base is described by no
    single id.
    """
    text: Any = adapter_base(home) if home else recipe.model
    source = _source(text) if isinstance(text, str) else None
    if source is None:
        return None
    here = source.path or cached(source.name, source.revision)
    if here and is_adapter(here):
        return None if home else adapters_base(recipe, here)
    return source.name if source.kind == "hub" else None


def hub_model(text: str) -> str | None:
    """The Hub id in a model's name, without its revision; for the folder of a run, the id of its base model."""
    seen: set[str] = set()
    while text not in seen:
        seen.add(text)
        try:
            source = parse(text)
            if source.kind == "hub":
                return source.name
            if source.path is None or not source.path.is_dir():
                return None
            text = adapter_base(source.path)
        except ModelError:
            return None
    return None


def hub_dataset(spec: DatasetSpec) -> str | None:
    """The Hub id of a dataset that a run has pinned to a commit; None for everything else, which may be a person's own files."""
    pinned = PINNED.fullmatch(spec.source)
    return pinned["name"] if pinned else None


def public_source(spec: DatasetSpec) -> str | None:
    """The name of a dataset that others have too, built in or on the Hub, or `generated`; None for a person's own files."""
    if spec.source == GENERATED:
        return GENERATED
    return spec.source.removeprefix("builtin:") if spec.source.startswith("builtin:") else hub_dataset(spec)


def is_open(spec: DatasetSpec, data: Mapping[str, Any]) -> bool:
    """Whether others can read the rows too, so that samples of them can be shown; `data` is the run's data_report.json.

    A Hub dataset is open if the run learned that it is neither private nor gated.
    """
    return spec.source.startswith("builtin:") or (hub_dataset(spec) is not None and not data.get("restricted", True))


def public_recipe(recipe: Recipe) -> Recipe:
    """The recipe without a name of a local file or folder, any of which may be a person's, and without the upload.

    Files of the Hub keep theirs. Whoever repeats the run has another account, other folders, and needs the data from its owner.
    """
    data = recipe.model_dump(mode="json")
    data["upload"] = None
    data["output_dir"] = Recipe.from_layers({"approach": recipe.approach}).output_dir
    files, tasks = recipe.dataset.data_files, recipe.benchmark.tasks
    if public_source(recipe.dataset) is None:
        data["dataset"]["source"] = _private(recipe.dataset.source)
        if isinstance(files, list):
            data["dataset"]["data_files"] = [_private(file, f"-{number}") for number, file in enumerate(files, 1)]
        elif files:
            data["dataset"]["data_files"] = _private(files)
    elif files:
        data["dataset"]["data_files"] = [_last(file) for file in files] if isinstance(files, list) else _last(files)
    data["benchmark"]["tasks"] = [_private(task, f"-{number}") if is_file(task) else task for number, task in enumerate(tasks, 1)]
    if recipe.dataset.examples:
        data["dataset"]["examples"] = _private(recipe.dataset.examples)
    if isinstance(recipe.model, str) and is_path(recipe.model):
        data["model"] = "local-model"
    if recipe.teacher and recipe.teacher.server:
        data["teacher"]["server"], data["teacher"]["key"] = "http://private-server/v1", None
    elif recipe.teacher and not recipe.teacher.is_self and is_path(recipe.teacher.source):
        data["teacher"]["source"] = "local-teacher"
    for number, each in enumerate(data["teachers"] or [], 1):
        each["source"] = f"local-teacher-{number}" if is_path(each["source"]) else each["source"]
    return Recipe.from_layers(data)


def public_benchmark(scores: Mapping[str, Any], recipe: Recipe, data: Mapping[str, Any]) -> dict[str, Any]:
    """benchmark.json, without prompts and answers unless everybody can read the rows."""
    kept = {key: value for key, value in scores.items() if key != "generations" or is_open(recipe.dataset, data)}
    named = zip(kept.get("teachers", []), public_recipe(recipe).teachers or [], strict=False)
    return kept | ({"teachers": [{**scored, "source": each.source} for scored, each in named]} if "teachers" in kept else {})


def public_continued(continued: Mapping[str, Any], base: str) -> dict[str, Any]:
    """continued.json without local paths: the adapter that was trained further, if the Hub has it, and the base as others find it."""
    adapter, pinned = str(continued["adapter"]), str(continued["base"])
    return {"adapter": None if is_path(adapter) else adapter, "base": base if is_path(pinned) or "@pypi-" in pinned else pinned}


def public_config(text: str, base: str | None) -> str:
    """A JSON file of transformers or peft without local paths; an adapter's base model becomes its Hub id."""
    content = _without_paths(json.loads(text))
    if BASE in content:
        content[BASE] = base
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _without_paths(settings: Any, key: str = "") -> Any:
    if isinstance(settings, dict):
        return {name: _without_paths(value, str(name)) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_without_paths(value, key) for value in settings]
    return None if isinstance(settings, str) and PATH_KEY.search(key) and is_path(settings) else settings


def is_path(text: str) -> bool:
    """Whether a model's name is that of a file or folder on this machine."""
    source = _source(text)
    return source.kind != "hub" if source else looks_local(text)


def _start(recipe: Recipe) -> str:
    return recipe.model if isinstance(recipe.model, str) else next((each.source for each in recipe.all_teachers), "")


def _source(model: str) -> ModelSource | None:
    """None for what is no model, such as a folder that no longer exists."""
    try:
        return parse(model)
    except ModelError:
        return None


def _private(path: str, number: str = "") -> str:
    """What a person's own file is called in public: of its name only the ending says something that others need."""
    name = _last(path)
    ending = ending_of(name) if ending_of(name) in KINDS else next((end for end in ARCHIVES if name.lower().endswith(end)), "")
    return f"private-data{number}{ending}"


def _last(path: str) -> str:
    """Without the folders, and the query of an address, which may hold a key."""
    plain = path.partition("?")[0] if "://" in path else path  # in a file's name it may be part of a pattern
    return Path(plain.replace("\\", "/")).name or "data"
