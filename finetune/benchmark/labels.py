"""Answers that are labels: which of them are the same, and how many rows have each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.formatting import strip_control_chars
from finetune.letters import FULL_STOPS, without_case


def as_label(text: str) -> str:
    """A text without its case, spacing and full stop, " SPAM. " as "spam": two short answers are the same where these are."""
    return " ".join(without_case(text).split()).rstrip(FULL_STOPS).rstrip()


def reference_labels(scores: Mapping[str, Any]) -> list[str]:
    """The reference answer of every row as a label."""
    return [as_label(strip_control_chars(row["reference"])) for row in scores.get("generations") or []]
