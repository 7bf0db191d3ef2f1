"""Limits on how long a tokenizer from elsewhere may make a text: its settings can write a thousand letters for one, nine times over.

check_growth(folder)                # ModelError for a tokenizer.json whose replacements would fill the memory

The library that reads it ends the process where there is no memory left, so the settings are looked at before it does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.foreign import TOKENIZER_GROWTH, reading
from finetune.model_folder import AGAIN

FILE = "tokenizer.json"
GROWING = re.compile(rb"Replace|Prepend|\\u00[57]")  # the names of such steps, or letters of them in disguise


def check_growth(folder: Path) -> None:
    """Raises ModelError if the steps before or after the tokens could make a text more than TOKENIZER_GROWTH times as long."""
    path = folder / FILE
    if not path.is_file():
        return
    with reading(path, ModelError, hint=AGAIN):
        content = path.read_bytes()
        if not GROWING.search(content):  # most have none; of the others, the largest take half a second
            return
        settings = json.loads(content)
        for name in ("normalizer", "decoder"):
            if prod(_factors(settings.get(name))) > TOKENIZER_GROWTH:
                raise ModelError(f"{path} has a {name} that makes texts more than {TOKENIZER_GROWTH:,} times as long.", hint=AGAIN)


def _factors(step: Any) -> Iterator[float]:
    """How many times longer each replacement inside makes a text, at most; a pattern may match where there is nothing."""
    if isinstance(step, list):
        for each in step:
            yield from _factors(each)
    elif isinstance(step, dict):
        pattern, put = step.get("pattern"), str(step.get("content", ""))
        if step.get("type") == "Replace" and isinstance(pattern, dict):
            found = len(str(pattern.get("String", "")))
            yield max(1.0, len(put) / found if found else 1 + len(put))
        elif step.get("type") == "Prepend":
            yield 1.0 + len(str(step.get("prepend", "")))
        yield from _factors([inner for key, inner in step.items() if key != "pattern"])
