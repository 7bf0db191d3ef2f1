"""The files that were exported for other programs, on the report page: how near each is to the model, how large and how fast.

exported_files(records.exports)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.benchmark.report.html import Html, section, table
from finetune.formatting import nearness, size

HEAD = ("", "On disk", "Loads in", "Speed", "KL divergence", "Same top token")
NOTE = (
    "Measured on this machine when the file was exported, beside the model as transformers runs it, each with what it loads from in the "
    "system's memory. KL divergence: how far the probabilities of the next token are from the model's, in nats."
)
UNKNOWN = "not measured"


def exported_files(exports: Sequence[Mapping[str, Any]]) -> Html:
    """A row for each file, below the original it came from; empty if nothing was exported."""
    if not exports:
        return Html()
    return section("Files for other programs", table(HEAD, _rows(exports), "Exported files and the original"), note=NOTE)


def _rows(exports: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield "Original", *_measured(exports[-1]["original"]), "", ""
    for each in exports:
        gate = each["gate"]
        measured = _measured(each["exported"]) if each["exported"] else (size(each["bytes"]), UNKNOWN, UNKNOWN)
        same = f"{gate['same_top']} of {gate['prompts']} prompts" if gate.get("prompts") else UNKNOWN
        yield each["file"], *measured, nearness(gate), same


def _measured(speed: Mapping[str, Any]) -> tuple[str, str, str]:
    rate = speed["tokens_per_second"]
    return size(speed["bytes"]), f"{speed['load_seconds']:.2f} s", f"{rate:,.0f} tokens/s" if rate else UNKNOWN
