"""Metrics that go with ROUGE by what the answers are (labels, JSON, SQL, sums, calls of tools): shared words hide what is wrong.

fitting([{"reference": "Billing"}, {"reference": "Shipping"}])      # ["accuracy"]
fitting([{"reference": '{"city": "Lyon"}'}])                        # ["json", "exact_match"]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.benchmark.json_answers import NO_JSON, as_json
from finetune.letters import word_count

OF_SHORT = "accuracy"
LABEL_WORDS, LABEL_LETTERS = 5, 40  # at most, of an answer that is right or wrong as a whole
SQL = re.compile(r"\s*(?:select|with|insert|update|delete)\s.*\b(?:from|into|set|select)\b", re.IGNORECASE | re.DOTALL)
CALL = re.compile(r"[\"']name[\"']\s*:.*[\"'](?:arguments|parameters)[\"']\s*:", re.DOTALL)  # of a tool, as nearly all templates write it
SUM = re.compile(r"#### ?[-$]?[\d.,]*\d\.?\s*$")  # as GSM8K ends


def fitting(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names in the registry, of held-out rows; none where answers are sentences, nor for plain text, which can go on in many ways."""
    references = [row["reference"] for row in rows if not row.get("is_text")]
    return next(
        (names for is_one, least, names in KINDS if references and len([*filter(is_one, references)]) >= least * len(references)), []
    )


def _is_short(text: str) -> bool:
    return len(text) <= LABEL_LETTERS and 0 < word_count(text) <= LABEL_WORDS


KINDS: list[tuple[Callable[[str], Any], float, list[str]]] = [  # and the share of the references that must be of this kind
    (lambda text: as_json(text) is not NO_JSON, 1.0, ["json", "exact_match"]),
    (_is_short, 1.0, [OF_SHORT]),
    (SQL.match, 1.0, ["exact_match"]),
    (SUM.search, 1.0, ["last_number"]),
    (CALL.search, 0.5, ["exact_match"]),  # the others ask back, or say that no tool helps
]
