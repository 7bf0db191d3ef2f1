"""Metrics for answers that are right or wrong: the share of the rows that are right, each as an `evaluate.Metric`.

Accuracy().compute(predictions=["Spam.", "ham"], references=["spam", "spam"])                # {"accuracy": 0.5}
ExactMatch().compute(predictions=["Spam.", "spam"], references=["spam", "spam"])             # {"exact_match": 0.5}
LastNumber().compute(predictions=["3 x 6 is $18.00."], references=["so 18\n#### 18"])        # {"last_number": 1.0}
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

import datasets
import evaluate

from finetune.benchmark.labels import as_label
from finetune.errors import BenchmarkError
from finetune.letters import as_seen

# 1.234,56 and 3,5, but not two numbers of a list such as 1,2,3 or 1.250,2.500 or (1,2);
# then 1,234.5 and 12,34,567.8 and 1 234.5 and 1234.5 and .5
COMMA = r"(?<![\d,.([{])(?:[1-9]\d{0,2}(?:[.\xa0\u202f]\d{3})+|\d+(?!,\d{3}(?!\d))),\d+(?![.,]?\d)"
POINT = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d{2}){1,6},\d{3}(?!\d)|\d{1,3}(?:[\xa0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(rf"((?<![\w.])(?:[-−][$€£]?|[$€£][-−]))?(?:({COMMA})|({POINT}))")  # a minus between two numbers is no sign
ARABIC = str.maketrans("٫٬", ".,")


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """An answer is right that is the reference, except for case, spacing and a full stop: for labels and other short answers."""

    key: ClassVar[str] = "accuracy"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions: generated texts; references: one reference text each",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def read(self, text: str) -> Any:
        """The part of a text that is compared."""
        return as_label(text)

    def per_row(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        """1 for each row that is right, else 0."""
        return {self.key: [float(self.read(one) == self.read(other)) for one, other in zip(predictions, references, strict=True)]}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        right = self.per_row(predictions, references)[self.key]
        return {self.key: sum(right) / len(right)}


class ExactMatch(Accuracy):
    """An answer is right that is the reference letter by letter; only blanks around them do not count."""

    key = "exact_match"

    def read(self, text: str) -> str:
        return unicodedata.normalize("NFC", text).strip()


class LastNumber(Accuracy):
    """An answer is right whose last number is the reference's last number, as GSM8K counts (Cobbe et al. 2021, arXiv 2110.14168).

    1,234 is 1234, $18.00 is 18, 3,5 is 3.5. A row whose reference has no number does not count.
    """

    key = "last_number"

    def read(self, text: str) -> Decimal | None:
        return last_number(text)

    def per_row(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        """How many of the row's numbers, none or one, the answer has right, and how many there are."""
        wanted = [self.read(text) for text in references]
        right = [float(want is not None and self.read(text) == want) for text, want in zip(predictions, wanted, strict=True)]
        return {"numbers_right": right, "numbers": [float(want is not None) for want in wanted]}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        counted = self.per_row(predictions, references)
        of = sum(counted["numbers"])
        if not of:
            raise BenchmarkError(
                "No reference answer has a number, so `last_number` measures nothing.", hint="Leave it out of benchmark.metrics."
            )
        return {self.key: sum(counted["numbers_right"]) / of}


def last_number(text: str) -> Decimal | None:
    """The last number in a text, None if it has none: what parts groups of digits is left out, and a decimal comma is a point."""
    found = NUMBER.findall(as_seen(text).translate(ARABIC))
    if not found:
        return None
    minus, comma, point = found[-1]
    digits = re.sub(r"[.\s]", "", comma).replace(",", ".") or re.sub(r"[,\s]", "", point)
    return Decimal(f"{'-' if minus else ''}{digits}")
