"""Classes by name: numbers whose names a dataset brings along, as `datasets` writes them into Parquet and Arrow files.

names = stored_names(batch.schema.metadata)         # {"label": ["negative", "positive"]}
with_names({"text": "Great!", "label": 1}, names)   # {"text": "Great!", "label": "positive"}

Letters, and names that are columns too, say which of several choices is right: such numbers stay (data/formats/choices.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

WRITTEN_BY_DATASETS = b"huggingface"
NO_CLASS = -1  # of rows whose class nobody gave, as in test sets


def stored_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes in each column, read from the metadata of an Arrow schema; none where that is damaged."""
    try:
        features = json.loads((metadata or {})[WRITTEN_BY_DATASETS])["info"]["features"]
        classes = {name: feature.get("names") for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
        return names_of(classes, features)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}


def names_of(classes: Mapping[str, Any], columns: Iterable[str]) -> dict[str, list[str]]:
    """The columns whose classes have names that say something."""
    taken = set(columns)
    return {
        column: names
        for column, names in classes.items()
        if isinstance(names, list) and names and all(isinstance(name, str) and len(name) > 1 and not name.isdigit() for name in names)
        if not taken & set(names)
    }


def with_names(record: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """The record with the names of its classes; nothing for a row without a class, and a number without a name as it is."""
    for column, of in names.items():
        value = record.get(column)
        if isinstance(value, int) and not isinstance(value, bool) and NO_CLASS <= value < len(of):
            record = {**record, column: None if value == NO_CLASS else of[value]}
    return record
