"""The verdict on a student, in words that lead with its teacher.

    found = verdict_on(scores)         # the content of benchmark.json
    found.word, found.sentence         # "not usable", "Keeps 12 % [5 %, 21 %] of its teacher: not usable."
    found.costs                        # "0.32 times the size, 4.4 times the speed."

The rule. Of the teacher's ROUGE-L a usable student keeps at least 80 %, and its perplexity is at most 1.5 times the teacher's. One that
keeps less than 50 %, or whose perplexity is more than 3 times the teacher's, is not usable. Between the two it is weak. Where only one of
the two was measured, that one decides; the lower of both decides otherwise, because a student can know the text and yet answer nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.benchmark.names import FEWEST_ROWS, number, retained, share

METRIC = "rougeL"
WORDS = ("not usable", "weak", "usable")
KEPT = (0.5, 0.8)  # of the teacher's ROUGE-L: from here on it is weak, usable
TIMES = (3.0, 1.5)  # the teacher's perplexity: up to here it is weak, usable
MOST_KEPT = 1.5  # a larger share says more about the teacher
UNJUDGED = "too few rows to judge"
COSTS = (("size", "size", "parameters"), ("speed", "speed", "tokens_per_second"), ("memory", "speed", "peak_memory_bytes"))


@dataclass(frozen=True)
class StudentVerdict:
    """`word` is one of WORDS or UNJUDGED; `costs` is empty if nothing was measured of both models."""

    word: str
    sentence: str
    costs: str


def verdict_on(scores: Mapping[str, Any]) -> StudentVerdict | None:
    """What can be said of the student; None for a run without a teacher, or where nothing of the teacher was measured."""
    if not scores.get("teacher"):
        return None
    kept = retained(scores).get(METRIC)
    student, teacher = (float((scores.get(side) or {}).get("perplexity") or 0) for side in ("after", "teacher"))
    times = student / teacher if student and teacher else None
    by_answers = sum(kept["value"] >= least for least in KEPT) if kept else None
    by_text = sum(times <= most for most in TIMES) if times else None
    known = [level for level in (by_answers, by_text) if level is not None]
    if not known:
        return None
    rows = int(scores["rows"])
    word = WORDS[min(known)] if rows >= FEWEST_ROWS else UNJUDGED
    pair = [number(METRIC, float((scores.get(side) or {}).get(METRIC) or 0)) for side in ("after", "teacher")]
    what = _what(kept, times, by_answers, by_text, " against ".join(pair))
    return StudentVerdict(word, f"{what}: {_judged(word, rows)}.", " ".join(_costs(scores)))


def _what(kept: Mapping[str, Any] | None, times: float | None, by_answers: int | None, by_text: int | None, pair: str) -> str:
    """What the verdict rests on: the answers first, and the perplexity where that decides."""
    beside = f"its perplexity is {times:.1f} times its teacher's" if times else ""
    if kept is None:
        return f"{beside[:1].upper()}{beside[1:]}" if times and times > 1 else "It predicts the text as well as its teacher"
    interval = f" [{share(kept['low'])}, {share(kept['high'])}]" if kept["low"] is not None else ""
    if kept["value"] > MOST_KEPT:  # of hardly anything
        answers = f"Answers better than its teacher (ROUGE-L {pair})"
    elif kept["value"] >= 1:
        answers = f"Answers as well as its teacher ({share(kept['value'])} of its ROUGE-L{interval})"
    else:
        answers = f"Keeps {share(kept['value'])}{interval} of its teacher"
    return f"{answers}, but {beside}" if by_text is not None and by_answers is not None and by_text < by_answers else answers


def _judged(word: str, rows: int) -> str:
    return f"{word} ({rows} of {FEWEST_ROWS})" if word == UNJUDGED else word


def _costs(scores: Mapping[str, Any]) -> list[str]:
    found = []
    for name, group, key in COSTS:
        student, teacher = ((scores.get(group) or {}).get(side, {}).get(key) for side in ("after", "teacher"))
        if student and teacher:
            times = student / teacher
            found.append(f"{times:.2f} times the {name}" if times < 2 else f"{times:.1f} times the {name}")
    return [f"{', '.join(found)}."] if found else []
