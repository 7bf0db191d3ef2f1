"""How a person said a file is to be read (its columns, text, encoding), remembered for the next time the same file is chosen.

    remember("support.csv", {"columns": {"prompt": "frage", "completion": "antwort"}})
    recall("support.csv")          # the same mapping, in any later session

Kept in CACHE/readings.json, the latest two hundred. Only the wizard looks here: a recipe and --yes never depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from finetune.errors import BadInput
from finetune.recipe.settings import ColumnsSpec
from finetune.runtime import default_cache
from finetune.system.storage import write_whole

KEYS = ("columns", "text_as", "encoding")  # of the dataset; they depend on the file alone
MOST = 200


@cache
def recall(source: str) -> dict[str, Any]:
    """What was said about a source in an earlier session; the same all through this one, so that going back changes nothing."""
    known = _all().get(_place(source), {})
    return {key: known[key] for key in KEYS if known.get(key) is not None} if isinstance(known, dict) else {}


def remember(source: str, dataset: Mapping[str, Any]) -> None:
    """Keep what `dataset`, the part of a draft, says about reading; what is as it was detected needs no memory."""
    said = {key: _plain(dataset[key]) for key in KEYS if dataset.get(key) is not None}
    known, place = _all(), _place(source)
    if known.get(place, {}) == said:
        return
    known.pop(place, None)
    if said:
        known[place] = said
    try:
        write_whole(_file(), json.dumps(dict(list(known.items())[-MOST:]), indent=1), shared=True)
    except (OSError, BadInput):
        return  # then it is asked again


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if isinstance(value, ColumnsSpec) else value


def _place(source: str) -> str:
    """Where the file is, whatever folder it was named from; the name of a Hub dataset as it is."""
    paths = [Path(name.strip()).expanduser() for name in source.split(",")]
    return ", ".join(str(path.resolve()) for path in paths) if all(path.exists() for path in paths) else source


def _file() -> Path:
    return default_cache() / "readings.json"


def _all() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, BadInput):
        return {}
    return known if isinstance(known, dict) else {}
