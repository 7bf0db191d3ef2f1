"""Answers that are labels: which of them are the same, and how many rows have each."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from finetune.formatting import strip_control_chars


def as_label(text: str) -> str:
    """A text without its case, spacing and full stop, " SPAM. " as "spam": two short answers are the same where these are."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(".").rstrip()


def reference_labels(scores: Mapping[str, Any]) -> list[str]:
    """The reference answer of every row as a label."""
    return [as_label(strip_control_chars(row["reference"])) for row in scores.get("generations") or []]
