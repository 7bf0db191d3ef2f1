"""Answers that are labels: which of them are the same."""

from __future__ import annotations

import unicodedata


def as_label(text: str) -> str:
    """A text without its case, spacing and full stop, " SPAM. " as "spam": two short answers are the same where these are."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(".").rstrip()
