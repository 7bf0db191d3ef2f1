"""What `--to` can name: gguf, gguf:TYPE, onnx, and exporters of other packages.

exporter, options = chosen("gguf:q8_0", limit=None)
exporter.export(run, Path("./out"), runtime, reporter, **options)
"""

from __future__ import annotations

import math
from typing import Any

from finetune import registry
from finetune.errors import BadInput

MERGED = "merged"  # has a command of its own


def exporters() -> list[str]:
    """Every name but that of merging; imports none of them."""
    return [each for each in registry.names("exporters") if each != MERGED]


def chosen(text: str, limit: float | None) -> tuple[Any, dict[str, Any]]:
    """The exporter and its options; raises BadInput for a kind that does not exist, with the nearest that does.

    Whether there is such a type is for the exporter to say.
    """
    name, _, type = text.partition(":")
    known = exporters()
    if name.lower() not in known:
        raise BadInput(
            f"There is nothing called {name!r} to export to.{registry.did_you_mean(name.lower(), known)}",
            hint=f"Choose from {', '.join(known)}.",
        )
    exporter = registry.load("exporters", name.lower())
    types = getattr(exporter, "types", ())
    if type and not types:
        raise BadInput(f"{exporter.title} has no types, so {text!r} is not understood.", hint=f"Without one: --to {name.lower()}")
    if limit is not None and not 0 < limit < math.inf:
        raise BadInput(f"--limit is a number above zero, not {limit:g}.")
    options = {"type": type or None} if types else {}
    return exporter, options | ({} if limit is None else {"limit": limit})
