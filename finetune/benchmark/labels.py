"""Answers that are labels: which of them are the same, and how many of each are right.

as_label(" Spam. ")         # "spam"
by_label(scores)            # of benchmark.json: "Right of each label: spam 2 of 9, ham 41 of 41. ..."
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

from finetune.formatting import strip_control_chars

MOST_LABELS, LONGEST_LABEL = 20, 40


def as_label(text: str) -> str:
    """A text without its case, spacing and full stop: two short answers are the same where these are."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(".").rstrip()


def by_label(scores: Mapping[str, Any]) -> str | None:
    """ "Right of each label: spam 2 of 9, ham 41 of 41. Always answering ham is right in 82 %."; None where answers are no labels."""
    right, rows = (scores.get("per_row") or {}).get("accuracy") or [], scores.get("generations") or []
    written = Counter(" ".join(strip_control_chars(row["reference"]).split()) for row in rows)
    shown = {as_label(label): label for label, _ in reversed(written.most_common())}  # in the spelling that most rows have
    labels = [as_label(strip_control_chars(row["reference"])) for row in rows]
    of = Counter(labels)
    if len(right) != len(rows) or not 0 < len(of) <= min(MOST_LABELS, len(rows) / 2) or max(map(len, written)) > LONGEST_LABEL:
        return None
    if len(of) == 1:
        return f"All {len(rows):,} reference answers are {shown[labels[0]]}, so they do not show whether the model can tell labels apart."
    found = Counter(label for label, is_right in zip(labels, right, strict=True) if is_right)
    worst_first = sorted(of, key=lambda label: (found[label] / of[label], label))
    listed = ", ".join(f"{shown[label]} {found[label]} of {of[label]}" for label in worst_first)
    (commonest, rows_of_it), *_ = of.most_common(1)
    return f"Right of each label: {listed}. Always answering {shown[commonest]} is right in {100 * rows_of_it / len(rows):.0f} %."
