"""Completions of a partly typed model name or path; none when the disk or the Hub has no answer.

models("gpt", hub=True)        # ["gpt2", "gpt2-medium", ...]
datasets("gsm", hub=True)      # ["openai/gsm8k", ...]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from finetune.data.endings import can_be_read
from finetune.hub.cache import cached_names
from finetune.hub.catalogue import CATALOGUE
from finetune.hub.facts import search
from finetune.letters import without_case
from finetune.model_folder import is_gguf
from finetune.recipe import STARTER

MOST = 6
SHORTEST_SEARCH = 3


def models(text: str, hub: bool) -> list[str]:
    """Folders and .gguf files, what is known to work here, then the Hub's own search."""
    here = paths(text, is_gguf) if _looks_like_path(text) else [f"./{path.parent}" for path in Path().glob("*/*config.json")]
    names = [entry.id for entry in CATALOGUE] if hub else [STARTER, *cached_names("model")]
    found = list(dict.fromkeys(name for name in [*here, *names] if text.lower() in name.lower()))
    no_name = ":" in text or _looks_like_path(text)  # the address of a server concerns nobody else
    if hub and len(text) >= SHORTEST_SEARCH and not no_name and len(found) < MOST:
        found += [name for name in search(text, "model") if name not in found]
    return found[:MOST]


def datasets(text: str, hub: bool) -> list[str]:
    """What is on this machine already, then the Hub's own search."""
    found = [name for name in cached_names("dataset") if text.lower() in name.lower()]
    if hub and len(text) >= SHORTEST_SEARCH:
        found += [name for name in search(text, "dataset") if name not in found]
    return found[:MOST]


def paths(text: str, fits: Callable[[str], bool] = can_be_read) -> list[str]:
    """Folders, and files whose names fit, that begin like `text`."""
    text = text.replace(os.sep, "/")  # a backslash on Windows
    folder, _, start = text.rpartition("/")
    where = Path(os.path.expanduser(folder or ("/" if text.startswith("/") else ".")))
    try:
        entries = sorted(where.iterdir(), key=lambda path: path.name)
    except OSError:
        return []
    begins = without_case(start)  # a Mac stores letters in parts, and people type them as one
    fitting = [path for path in entries if without_case(path.name).startswith(begins) and (start or not path.name.startswith("."))]
    prefix = f"{folder}/" if folder or text.startswith("/") else ""
    return [f"{prefix}{path.name}{'/' if path.is_dir() else ''}" for path in fitting if path.is_dir() or fits(path.name)][:MOST]


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or Path(text.replace(os.sep, "/").split("/")[0]).is_dir()
