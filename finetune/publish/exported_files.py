"""Files that were exported for other programs: which of them an upload can carry, and the card's section about them.

files_for_other_programs(run.exports)         # a table, or nothing
to_upload(run.exports)["out-Q8_0.gguf"]       # the newest of that name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.formatting import nearness, ratio, size

HEAD = """## Files for other programs

| file | size | smaller | faster | KL from the model | same top token |
|---|---|---|---|---|---|
"""
FOOT = "Against the original, on the machine that exported it; what is faster is the program that runs the file."


def to_upload(exports: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The .gguf files by their names, as a repository has them."""
    return {each["file"]: each for each in exports if each.get("to") == "gguf"}


def files_for_other_programs(exports: Sequence[Mapping[str, Any]]) -> str:
    """How large and fast each is, and how near to the model; without the folders of this machine."""
    return f"{HEAD}{''.join(map(_row, exports))}\n{FOOT}" if exports else ""


def _row(exported: Mapping[str, Any]) -> str:
    gate, faster = exported["gate"], exported["faster"]
    cells = [
        exported["file"],
        size(exported["bytes"]),
        f"{ratio(exported['smaller'], 1)} times",
        "not measured" if faster is None else f"{ratio(faster, 1)} times",
        nearness(gate),
        f"{gate['same_top']} of {gate['prompts']} prompts" if gate.get("prompts") else "not measured",
    ]
    return f"| {' | '.join(cells)} |\n"
