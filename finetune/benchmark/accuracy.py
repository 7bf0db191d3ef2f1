"""Accuracy as an `evaluate.Metric`: the share of answers that are the reference, but for case, spacing and a full stop.

Accuracy().compute(predictions=["Spam.", "ham"], references=["spam", "spam"])      # {"accuracy": 0.5}
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """For labels and other short answers that are right or wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of answers that equal their reference, but for case, spacing and a full stop.",
            citation="",
            inputs_description="predictions: generated texts; references: one reference text each",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def per_row(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        """{"accuracy"}: 1 for each row that is right, else 0."""
        return {"accuracy": [float(_bare(one) == _bare(other)) for one, other in zip(predictions, references, strict=True)]}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        right = self.per_row(predictions, references)["accuracy"]
        return {"accuracy": sum(right) / len(right)}


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(".").rstrip()
