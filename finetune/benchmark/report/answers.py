"""Sample answers on the page: prompt, reference and each model's answer; stacked on a narrow screen.

answers(scores)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.benchmark.names import NAMES, number
from finetune.benchmark.report.html import Html, element, section
from finetune.benchmark.report.scores import SIDES

SHOWN = 6
LONGEST, LONGEST_PROMPT = 1500, 700  # characters
MOST = 200  # rows on the page
METRIC = "rougeL"
INDENTED = re.compile(r"\n[ \t]+\S")


def answers(scores: Mapping[str, Any]) -> Html:
    """A few rows from best to worst, the others folded; empty if nothing was generated."""
    rows: Sequence[Mapping[str, str]] = scores.get("generations") or []
    if not any(side in row for row in rows[:1] for side in SIDES):
        return Html()
    per_row: Sequence[float] | None = (scores.get("per_row") or {}).get(METRIC)
    order = list(range(len(rows)))
    if per_row and len(per_row) == len(rows):
        order.sort(key=lambda row: -per_row[row])
    picked = [order[round(place * (len(order) - 1) / (SHOWN - 1))] for place in range(SHOWN)] if len(order) > SHOWN else order
    others = [row for row in range(len(rows)) if row not in picked][: MOST - SHOWN]
    note = f"Rows from best to worst by {NAMES[METRIC]}." if per_row else f"{len(picked)} of {len(rows):,} rows."
    more = Html()
    if others:
        left = len(rows) - len(picked) - len(others)
        rest = [element("p", f"{left:,} more are in run/benchmark.json.", class_="quiet")] if left else []
        title = f"The other {len(others):,} answers" if not left else f"{len(others):,} more answers"
        more = element("details", element("summary", title), *(_answer(rows, row, per_row) for row in others), *rest)
    return section("Sample answers", *(_answer(rows, row, per_row) for row in picked), more, note=note)


def _answer(rows: Sequence[Mapping[str, str]], row: int, per_row: Sequence[float] | None) -> Html:
    texts = rows[row]
    scored = f" · {NAMES[METRIC]} {number(METRIC, per_row[row])}" if per_row and row < len(per_row) else ""
    shown = [side for side in ("reference", *SIDES) if side in texts]
    sides = [element("div", element("h4", side.capitalize()), _words(texts[side]), class_=side) for side in shown]
    parts = [element("h3", f"Row {row + 1}{scored}"), _words(texts.get("prompt", ""), "prompt ", LONGEST_PROMPT)]
    return element("article", *parts, element("div", *sides, class_="sides"), class_="answer")


def _words(text: str, kind: str = "", longest: int = LONGEST) -> Html:
    """Indented text is shown in a fixed-width font, like code."""
    if not text.strip():
        return element("p", "(nothing)", class_="words quiet")
    return element("p", clipped(text, longest), class_=f"{kind}words{' code' if INDENTED.search(text) else ''}")


def clipped(text: str, longest: int) -> str:
    """The beginning of a long text, and how much was left out."""
    text = text.strip("\n")
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest:,} more characters)"
