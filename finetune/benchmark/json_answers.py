"""Answers that are JSON, as an `evaluate.Metric`: how many are, and how many fields of the references they have.

JsonAnswers().compute(predictions=['{"a": 1, "b": 3}', "a: 1"], references=['{"a": 1, "b": 2}'] * 2)
    ->  {"valid_json": 0.5, "json_fields": 0.25}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from finetune.benchmark.right_answers import Accuracy

NO_JSON = object()


class JsonAnswers(Accuracy):
    """Share of answers that are a JSON object or list, and of the references' fields that the answer has, with the same value."""

    def per_row(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        """1 for each answer that is JSON, else 0; how many fields of the row it has right, and how many there are."""
        given = [as_json(text) for text in predictions]
        wanted = [dict(_fields(as_json(text))) for text in references]
        found = [dict(_fields(value)) for value in given]
        return {
            "valid_json": [float(value is not NO_JSON) for value in given],
            "fields_right": [
                float(sum(key in has and _same(has[key], value) for key, value in want.items()))
                for has, want in zip(found, wanted, strict=True)
            ],
            "fields": [float(len(want)) for want in wanted],
        }

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        row = self.per_row(predictions, references)
        of = sum(row["fields"])
        return {"valid_json": sum(row["valid_json"]) / len(references)} | ({"json_fields": sum(row["fields_right"]) / of} if of else {})


def as_json(text: str) -> Any:
    """The object or the list that a text is, NO_JSON for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return NO_JSON
    return value if isinstance(value, dict | list) else NO_JSON


def _fields(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each value that is no object and no list, by its place; an empty object or list is a value too."""
    if not value or not isinstance(value, dict | list):
        yield from [] if value is NO_JSON else [(place, value)]
        return
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _fields(inner, (*place, name))


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
