"""ROUGE-1, ROUGE-2 and ROUGE-L as an `evaluate.Metric` over rouge-score: F-measures in 0..1, nothing is downloaded.

    Rouge().compute(predictions=["the cat sat"], references=["a cat sat"])   # {"rouge1": 0.66..., "rouge2": 0.5, "rougeL": 0.66...}

Words are stemmed (Porter), as is usual for English. rouge-score's tokenizer drops every character outside a-z, so perfect answers in
most languages score 0; `finetune.letters.words` keeps them, and gives the same words as rouge-score's for plain English.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from finetune.letters import words

KEYS = ("rouge1", "rouge2", "rougeL")
SETTINGS = {"score": "F-measure", "stemmer": "porter"}


class Rouge(evaluate.Metric):  # type: ignore[misc]
    """Mean ROUGE F-measures of predictions against references; `per_row` returns them row by row."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})
        self.scorer = RougeScorer(list(KEYS), tokenizer=Words())

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE-1, ROUGE-2 and ROUGE-L F-measures with Porter stemming.",
            citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
            inputs_description="predictions: generated texts; references: one reference text each",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def per_row(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        """{"rouge1", "rouge2", "rougeL"}: one F-measure per row."""
        rows = [self.scorer.score(reference, prediction) for prediction, reference in zip(predictions, references, strict=True)]
        return {key: [float(row[key].fmeasure) for row in rows] for key in KEYS}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {key: sum(values) / len(values) for key, values in self.per_row(predictions, references).items()}


class Words:
    """Lower-case words of any script, English ones longer than three letters stemmed."""

    def __init__(self) -> None:
        self.stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        return [self.stemmer.stem(word) if len(word) > 3 and word.isascii() else word for word in words(text)]
