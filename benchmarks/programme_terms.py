"""Inner layers and relations against none, for a student of half the starter's layers: equal rows, equal steps, the same held-out rows.

Seconds are those of asking the teacher, whose answers are cached with what a term compares, and training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from programme_students import distilled

BASE = ["model={from_teacher: {layers: 15}}", "training.learning_rate=5e-4", "dataset.samples=120", "dataset.held_out=0.25"]
ROWS = {
    "none": [],
    "last states, 0.1": ["distillation.features={last: 0.1}"],
    "inner layers": ["distillation.features={layers: auto}"],
    "relations of v": ["distillation.features={relations: [v]}"],
    "all three": ["distillation.features={last: 0.1, layers: auto, relations: [v]}"],
}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    return distilled([*BASE, *changes, *ROWS[name]])


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(f"| {'':<24} | seconds | KL before | KL after             | same first choice      | perplexity |")
    print(f"|{'-' * 26}|{'-' * 9}|{'-' * 11}|{'-' * 22}|{'-' * 24}|{'-' * 12}|")
    for name, result in found.items():
        after = result["after"]
        kl, same = "{:.3f} [{:.3f}, {:.3f}]".format(*after["kl"]), "{:.1%} [{:.1%}, {:.1%}]".format(*after["agreement"])
        print(
            f"| {name:<24} | {result['seconds']:>7.0f} | {result['before']['kl'][0]:>9.2f} | {kl:<20} | {same:<22} |"
            f" {after['perplexity'][0]:>10.1f} |"
        )
