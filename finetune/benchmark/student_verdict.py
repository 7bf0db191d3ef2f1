"""The verdict on a student, in words that lead with its teacher.

    found = verdict_on(scores)         # the content of benchmark.json
    found.word, found.sentence         # "not usable", "Keeps 12 % [5 %, 21 %] of its teacher: not usable."
    found.costs                        # "0.32 times the size, 4.4 times the speed."

The rule. Of the teacher's ROUGE-L (of its right answers, where these were counted and no ROUGE) a usable student keeps at least 80 %, and
its perplexity is at most 1.5 times the teacher's. One that keeps less than 50 %, or whose perplexity is more than 3 times the teacher's, is
not usable. Between the two it is weak. Where only one of the two was measured, that one decides; the lower of both decides otherwise,
because a student can know the text and yet answer nonsense. Shares and ratios are judged as they are shown, rounded.

By a bad teacher nobody can be judged: one that scores no more than the same answer to everything would, or is no better than the student
was before training. One that is always right is not bad, and a student that is its teacher in few bits says nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.benchmark.labels import reference_labels
from finetune.benchmark.names import FEWEST_ROWS, LOWER_IS_BETTER, NAMES, independent, number, retained, share
from finetune.formatting import ratio, times

METRICS = {"rougeL": "ROUGE-L", "accuracy": "right answers", "last_number": "right numbers"}  # the first that is known
METRICS |= {"json_fields": "right fields", "exact_match": "exact matches"}
WORDS = ("not usable", "weak", "usable")
KEPT = (50, 80)  # percent of the teacher's answers: from here on it is weak, usable
TIMES = (3.0, 1.5)  # the teacher's perplexity: up to here it is weak, usable
MOST_KEPT = 1.5  # a larger share says more about the teacher
UNJUDGED, WEAK_TEACHER = "too few rows to judge", "weak teacher"
COSTS = (("size", "size", "parameters"), ("speed", "speed", "tokens_per_second"), ("memory", "speed", "peak_memory_bytes"))


@dataclass(frozen=True)
class StudentVerdict:
    """`word` is one of WORDS, UNJUDGED or WEAK_TEACHER; `costs` is empty if nothing was measured of both models."""

    word: str
    sentence: str
    costs: str


def verdict_on(scores: Mapping[str, Any]) -> StudentVerdict | None:
    """What can be said of the student; None for a run without a teacher, or where nothing of the teacher was measured."""
    if not scores.get("teacher"):
        return None
    rows = independent(scores)
    metric, kept = kept_of(scores)
    student, teacher = (float((scores.get(side) or {}).get("perplexity") or 0) for side in ("after", "teacher"))
    against = round(student / teacher, 1) if student and teacher else None
    by_answers = sum(round(100 * kept["value"]) >= least for least in KEPT) if kept else None
    by_text = sum(against <= most for most in TIMES) if against is not None else None
    known = [level for level in (by_answers, by_text) if level is not None]
    if not known:
        return None
    word = WORDS[min(known)] if rows >= FEWEST_ROWS else UNJUDGED
    beside = f"its perplexity is {ratio(against, 1)} times its teacher's" if against is not None else ""
    if kept is None:
        better = ((scores.get("against_teacher") or {}).get("perplexity") or {}).get("verdict") == "better"
        alike = f"It predicts the text {'better than' if better else 'as well as'} its teacher"
        what = f"{beside[:1].upper()}{beside[1:]}" if against and against > 1 else alike
    else:
        what = _answers(metric, kept, scores)
        if by_text is not None and by_answers is not None and by_text < by_answers:
            what = f"{what}, but {beside}"
    if word in WORDS[1:] and (no_better := _teacher_is_no_better(scores)):
        word, what = WEAK_TEACHER, f"{what}; its teacher is no better than {no_better}"
    return StudentVerdict(word, f"{what}: {_judged(word, rows)}.", " ".join(_costs(scores)))


def _teacher_is_no_better(scores: Mapping[str, Any]) -> str:
    """What its teacher is no better than, and should be; empty where it is."""
    before, teacher = scores.get("before") or {}, scores["teacher"]
    metric = next((name for name in METRICS if name in teacher), None)
    if metric and round(teacher[metric], 3) == 1:
        return ""
    if metric and teacher[metric] <= _by_one_answer(scores):
        return "the same answer to everything"
    judged = [name for name in (metric, "perplexity") if name in before and name in teacher]
    theirs, ours = ([side[name] * (-1 if name in LOWER_IS_BETTER else 1) for name in judged] for side in (teacher, before))
    if theirs == ours or _is_teacher_rounded(scores) or any(their > our for their, our in zip(theirs, ours, strict=True)):
        return ""  # the same where it is its own teacher
    return "the student was before training"


def _by_one_answer(scores: Mapping[str, Any]) -> float:
    """The share of rows that have the commonest answer, where few answers are given to many rows, as labels are; else 0."""
    answers = Counter(reference_labels(scores))
    return max(answers.values()) / answers.total() if 0 < 2 * len(answers) <= answers.total() else 0.0


def _is_teacher_rounded(scores: Mapping[str, Any]) -> bool:
    """Whether the student began as its teacher in few bits, so that chance decides which of the two is a little better."""
    before, teacher = ((scores.get("size") or {}).get(side, {}).get("parameters") for side in ("before", "teacher"))
    return bool(scores.get("in_few_bits")) and before == teacher


def kept_of(scores: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """The score by which answers are judged, and what the student keeps of it; None where too few of many rows count, or none."""
    known, rows = retained(scores), independent(scores)
    for metric in METRICS:
        if metric in known and (known[metric]["low"] is not None or rows < FEWEST_ROWS):
            return metric, known[metric]
    return "", None


def _answers(metric: str, kept: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """How its answers compare with its teacher's."""
    interval = f" [{share(kept['low'])}, {share(kept['high'])}]" if kept["low"] is not None else ""
    if kept["value"] > MOST_KEPT:  # of hardly anything
        pair = " against ".join(number(metric, float((scores.get(side) or {}).get(metric) or 0)) for side in ("after", "teacher"))
        than = "better than" if (kept["low"] or 0) > 1 else "as well as"
        return f"Answers {than} its teacher ({NAMES[metric]} {pair})"
    if round(100 * kept["value"]) >= 100:
        return f"Answers as well as its teacher ({share(kept['value'])} of its {METRICS[metric]}{interval})"
    what = "" if metric == "rougeL" else f"'s {METRICS[metric]}"
    return f"Keeps {share(kept['value'])}{interval} of its teacher{what}"


def _judged(word: str, rows: int) -> str:
    return f"{word} ({rows} of {FEWEST_ROWS})" if word == UNJUDGED else word


def _costs(scores: Mapping[str, Any]) -> list[str]:
    found = []
    for name, group, key in COSTS:
        student, teacher = ((scores.get(group) or {}).get(side, {}).get(key) for side in ("after", "teacher"))
        if student and teacher:
            found.append(times(student / teacher, name))
    said = f"{', '.join(found)}."
    return [said[0].upper() + said[1:]] if found else []
