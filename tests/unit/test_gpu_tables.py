"""The tables of docs/numbers.md are made of the lines of `benchmarks/gpu.py`, however far it came."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_tables import tables


def loss(what: str, section: str = "loss", **numbers: Any) -> dict[str, Any]:
    return {"section": section, "what": what, **numbers}


def test_lines_become_the_tables_of_the_documents() -> None:
    told = [
        {"section": "machine", "what": "a GPU", "torch": "2.11.0"},
        {"section": "training", "what": "a model, LoRA: ours", "tokens_per_s": 37500, "GiB": 14.3, "planned_GiB": 15.9, "loss": 9.1},
        {"section": "training", "what": "a model, LoRA: Liger", "failed": "ImportError: no such thing"},
        loss("128,256 tokens, head frozen: ours", ms=15.0, MiB=586),
        loss("128,256 tokens, head frozen: Liger", ms=15.6, MiB=95),
        loss("128,256 tokens, head trains: ours", ms=24.8, MiB=1587),
        loss("262,144 tokens, head trains: Liger", ms=186.4, MiB=1200),
        loss("128,256 tokens, head frozen: 64 MiB", "chunks", rows=130, ms=19.0, MiB=130),
        loss("128,256 tokens, head frozen: smallest within 18.7 ms, by Liger", "chunks", MiB_of_a_chunk=128),
    ]
    assert [line for line in tables(told).splitlines() if line and "---" not in line] == [
        "| training | tokens/s | peak GiB | planned | of the products' rate |",
        "| a model, LoRA: ours | 37,500 | 14.3 | 15.9 |  |",
        "| the loss alone; frozen / trains | ours | Liger |",
        "| 128,256 | 15.0 / 24.8 ms, 586 / 1,587 MiB | 15.6 / - ms, 95 / - MiB |",
        "| 262,144 |  | - / 186.4 ms, - / 1,200 MiB |",
        "| chunks of the loss; frozen / trains | 64 MiB |",
        "| 128,256 | 19.0 / - ms, 130 / - MiB |",
    ]
    assert tables(told[:1]) == ""
