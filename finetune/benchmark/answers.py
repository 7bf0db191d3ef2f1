"""The sample answers of a benchmark: a few across the range, and the worst.

for answer in worst(scores, 5):         # the content of benchmark.json
    answer.row, answer.score, answer.missing        # 17, 0.0, ["4711"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.benchmark.copied import missing

SIDES = ("teacher", "before", "after")
BY = {"last_number": "numbers_right", "exact_match": "exact_match", "accuracy": "accuracy", "rougeL": "rougeL"}  # the first, and its column


@dataclass(frozen=True)
class Answer:
    """One held-out row: its prompt, and by their names reference and answers. `score` is that of the result by `ordered_by`, if it has one;
    `missing` are the numbers and codes of the reference that the result's answer lacks."""

    row: int
    prompt: str
    sides: dict[str, str]
    score: float | None
    missing: list[str]


def ordered_by(scores: Mapping[str, Any]) -> str | None:
    """The score that says which answers are bad: right or wrong where that was measured, else ROUGE-L; None if neither was."""
    per_row, rows = scores.get("per_row") or {}, scores.get("generations") or []
    return next((metric for metric, column in BY.items() if per_row.get(column) and len(per_row[column]) == len(rows)), None)


def all_answers(scores: Mapping[str, Any]) -> list[Answer]:
    """In the order of the rows; those without an answer of the result are left out."""
    rows: Sequence[Mapping[str, str]] = scores.get("generations") or []
    metric, per_row = ordered_by(scores), scores.get("per_row") or {}
    known = per_row[BY[metric]] if metric else [None] * len(rows)
    if metric == "last_number":
        known = [value if counts else None for value, counts in zip(known, per_row["numbers"], strict=True)]
    return [
        Answer(
            number,
            row.get("prompt", ""),
            {side: row[side] for side in ("reference", *SIDES) if side in row},
            known[number],
            missing(row["after"], row["reference"]),
        )
        for number, row in enumerate(rows)
        if "after" in row
    ]


def sampled(scores: Mapping[str, Any], most: int) -> list[Answer]:
    """At most so many, from all over the held-out rows."""
    answers = all_answers(scores)
    return answers[:: max(1, len(answers) // most)][:most]


def worst(scores: Mapping[str, Any], most: int | None = None) -> list[Answer]:
    """Lowest score first, and of equal ones those that lack more numbers and codes; none if nothing was scored row by row."""
    known = [answer for answer in all_answers(scores) if answer.score is not None]
    return sorted(known, key=lambda answer: (answer.score, -len(answer.missing), answer.row))[:most]
