"""Sample answers on the page: a few from the best to the worst, then all others, worst first; stacked on a narrow screen.

answers(scores)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune.benchmark.answers import Answer, all_answers, ordered_by, worst
from finetune.benchmark.names import NAMES, number
from finetune.benchmark.report.html import Html, element, joined, section
from finetune.letters import whole_letters

SHOWN = 6
WORST = 5
LONGEST, LONGEST_PROMPT = 1500, 700  # characters
MOST = 200  # rows on the page
ANY_LANGUAGE = {"dir": "auto", "lang": ""}  # of a text: the page itself is English
INDENTED = re.compile(r"\n[ \t]+\S")


def answers(scores: Mapping[str, Any]) -> Html:
    """A few rows from best to worst, the worst ones, and the others folded; empty if nothing was generated."""
    rows, metric = all_answers(scores), ordered_by(scores)
    lowest = worst(scores)
    ordered = lowest[::-1] if len(lowest) == len(rows) else rows
    picked = [ordered[round(place * (len(ordered) - 1) / (SHOWN - 1))] for place in range(SHOWN)] if len(ordered) > SHOWN else ordered
    alike = bool(metric) and len({answer.score for answer in rows}) == 1
    note = f"Rows from best to worst by {NAMES[metric]}." if metric and lowest else f"{len(picked)} of {len(rows):,} rows."
    if alike:
        note = f"All rows have the same {NAMES[str(metric)]}."
    bad = [answer for answer in lowest if answer not in picked][:WORST]
    others = [answer for answer in ordered[::-1] if answer not in picked and answer not in bad][: MOST - SHOWN - WORST]
    more = Html()
    if others:
        left = len(rows) - len(picked) - len(bad) - len(others)
        rest = [element("p", f"{left:,} more are in run/benchmark.json.", class_="quiet")] if left else []
        title = f"The other {len(others):,} answers" if not left else f"{len(others):,} more answers"
        order = ", worst first" if lowest and not alike else ""
        more = element("details", element("summary", f"{title}{order}"), *[_answer(answer, metric) for answer in others], *rest)
    first = section("Sample answers", *[_answer(answer, metric) for answer in picked], note=note)
    last = section("More answers" if alike else "The worst answers", *[_answer(answer, metric) for answer in bad], more) if bad else more
    return joined([first, last])


def _answer(answer: Answer, metric: str | None) -> Html:
    scored = f" · {NAMES[metric]} {number(metric, answer.score)}" if metric and answer.score is not None else ""
    lacking = f" · missing: {', '.join(answer.missing)}" if answer.missing else ""
    sides = [element("div", element("h4", side.capitalize()), _words(text), class_=side) for side, text in answer.sides.items()]
    parts = [
        element("h3", f"Row {answer.row + 1}{scored}{clipped(lacking, LONGEST_PROMPT)}"),
        _words(answer.prompt, "prompt ", LONGEST_PROMPT),
    ]
    return element("article", *parts, element("div", *sides, class_="sides"), class_="answer")


def _words(text: str, kind: str = "", longest: int = LONGEST) -> Html:
    """Indented text is shown in a fixed-width font, like code; each paragraph begins on the side of its script, in no known language."""
    if not text.strip():
        return element("p", "(nothing)", class_="words quiet")
    return element("p", clipped(text, longest), class_=f"{kind}words{' code' if INDENTED.search(text) else ''}", **ANY_LANGUAGE)


def clipped(text: str, longest: int) -> str:
    """The beginning of a long text, and how much was left out."""
    text = text.strip("\n")
    cut = whole_letters(text, longest)
    return text if len(text) <= longest else f"{text[:cut]} … ({len(text) - cut:,} more characters)"
