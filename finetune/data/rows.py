"""What readers hand on: one `Row` a record, or a `SkippedRow` that says where and why.

Row({"question": "...", "answer": "..."}, "train.jsonl", 7)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from finetune.errors import BadRow


class Row(NamedTuple):
    """One record as it lies in the file; `line` counts from 1 (the record's number where a file has no lines)."""

    values: dict[str, Any]
    file: str
    line: int


class SkippedRow(NamedTuple):
    """A record that cannot be used."""

    file: str
    line: int
    reason: str


class RowProblem(ValueError):
    """Why one record cannot be used; raised by formats, kept as a `SkippedRow`."""


class TooManyBadRows(BadRow):
    """More unusable rows than `dataset.bad_rows` allows; `share` would allow them."""

    def __init__(self, message: str, *, hint: str, share: float) -> None:
        super().__init__(message, hint=hint)
        self.share = share
