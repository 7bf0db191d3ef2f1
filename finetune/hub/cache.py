"""What is in the Hub's cache on this machine; needs no network.

cached("org/name", "main")       # the folder of the complete snapshot, or None
cached_names("model")            # ["org/name", ...]
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from finetune.model_folder import is_complete

COMMIT = re.compile(r"[0-9a-f]{40}")
SNAPSHOTS = {"model": "*/*config.json", "dataset": "*"}  # what a usable snapshot contains


def cached(name: str, revision: str | None) -> Path | None:
    """The complete snapshot of a model, by branch, tag or commit; None if there is none."""
    repository = _cache() / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8", errors="replace").strip() if reference.is_file() else (revision or "main")
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() and is_complete(folder) else None


def cached_names(kind: Literal["model", "dataset"]) -> list[str]:
    """The models or datasets that have a snapshot."""
    found = (path.relative_to(_cache()).parts[0] for path in sorted(_cache().glob(f"{kind}s--*/snapshots/{SNAPSHOTS[kind]}")))
    return [folder.removeprefix(f"{kind}s--").replace("--", "/") for folder in dict.fromkeys(found)]


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
