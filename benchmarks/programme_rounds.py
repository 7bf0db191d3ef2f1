"""Half of the starter's layers in rounds against at once: equal steps in all, the same held-out rows.

Each round is one pass over the rows, so `at once` makes three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from programme_students import distilled
from programme_terms import show as show

BASE = ["model={from_teacher: {layers: 15}}", "training.learning_rate=5e-4", "dataset.samples=120", "dataset.held_out=0.25"]
ROWS = {
    "15 layers at once": ["training.epochs=3"],
    "24, 20, 15 layers": ["distillation.rounds=[24, 20, 15]"],
}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    return distilled([*BASE, *changes, *ROWS[name]])
