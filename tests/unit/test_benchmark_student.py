"""The verdict on a student leads with its teacher, follows the rule that is written down, and shows no number that means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.benchmark.student_verdict import verdict_on


def scores(kept: float | None, student: float | None, *, rows: int = 45, **more: Any) -> dict[str, Any]:
    """A student that keeps so much of ROUGE-L, and its perplexity where the teacher has 10."""
    after = {"rougeL": 0.05} if student is None else {"rougeL": 0.05, "perplexity": student}
    retention = {} if kept is None else {"rougeL": {"value": kept, "low": kept - 0.1, "high": kept + 0.1}}
    teacher = {"rougeL": 0.5} if student is None else {"rougeL": 0.5, "perplexity": 10.0}
    return {"rows": rows, "teacher": teacher, "after": after, "retention": retention, **more}


@pytest.mark.parametrize(
    ("kept", "student", "word", "sentence"),
    [
        (0.12, 6.0, "not usable", "Keeps 12 % [2 %, 22 %] of its teacher: not usable."),
        (0.494, 9.0, "not usable", "Keeps 49 % [39 %, 59 %] of its teacher: not usable."),
        (0.499, 9.0, "weak", "Keeps 50 % [40 %, 60 %] of its teacher: weak."),
        (0.5, 9.0, "weak", "Keeps 50 % [40 %, 60 %] of its teacher: weak."),
        (0.8, 15.0, "usable", "Keeps 80 % [70 %, 90 %] of its teacher: usable."),
        (1.08, 7.0, "usable", "Answers as well as its teacher (108 % of its ROUGE-L [98 %, 118 %]): usable."),
        (0.997, 7.0, "usable", "Answers as well as its teacher (100 % of its ROUGE-L [90 %, 110 %]): usable."),
        (9.09, 7.0, "usable", "Answers better than its teacher (ROUGE-L 0.050 against 0.500): usable."),
        (0.9, 31.0, "not usable", "Keeps 90 % [80 %, 100 %] of its teacher, but its perplexity is 3.1 times its teacher's: not usable."),
        (0.9, 16.0, "weak", "Keeps 90 % [80 %, 100 %] of its teacher, but its perplexity is 1.6 times its teacher's: weak."),
        (None, 16.0, "weak", "Its perplexity is 1.6 times its teacher's: weak."),
        (None, 1.1, "usable", "It predicts the text as well as its teacher: usable."),
        (0.7, None, "weak", "Keeps 70 % [60 %, 80 %] of its teacher: weak."),
    ],
)
def test_the_rule(kept: float | None, student: float | None, word: str, sentence: str) -> None:
    found = verdict_on(scores(kept, student))
    assert found is not None
    assert (found.word, found.sentence) == (word, sentence)


@pytest.mark.parametrize(("low", "than"), [(1.2, "Answers better than its teacher"), (0.4, "Answers as well as its teacher")])
def test_better_than_its_teacher_is_said_only_where_chance_is_left_out(low: float, than: str) -> None:
    found = verdict_on(scores(1.7, 9.0, retention={"rougeL": {"value": 1.7, "low": low, "high": 3.0}}))
    assert found is not None
    assert found.sentence == f"{than} (ROUGE-L 0.050 against 0.500): usable."


@pytest.mark.parametrize(
    ("metric", "kept", "word", "sentence"),
    [
        ("accuracy", 0.6, "weak", "Keeps 60 % [50 %, 70 %] of its teacher's right answers: weak."),
        ("accuracy", 1.0, "usable", "Answers as well as its teacher (100 % of its right answers [90 %, 110 %]): usable."),
        ("exact_match", 1.0, "usable", "Answers as well as its teacher (100 % of its exact matches [90 %, 110 %]): usable."),
        ("last_number", 0.3, "not usable", "Keeps 30 % [20 %, 40 %] of its teacher's right numbers: not usable."),
        ("exact_match", 0.9, "usable", "Keeps 90 % [80 %, 100 %] of its teacher's exact matches: usable."),
    ],
)
def test_where_right_answers_are_counted_and_no_rouge_they_decide(metric: str, kept: float, word: str, sentence: str) -> None:
    share = {metric: {"value": kept, "low": kept - 0.1, "high": kept + 0.1}}
    found = verdict_on(scores(None, 9.0, retention=share))
    assert found is not None
    assert (found.word, found.sentence) == (word, sentence)
    on_few = verdict_on(scores(None, 9.0, retention={metric: {"value": kept, "low": None, "high": None}}))
    assert on_few is not None
    assert on_few.sentence == "It predicts the text as well as its teacher: usable.", "few of the rows count: the text decides"


def test_costs_are_ratios_of_what_was_measured_of_both() -> None:
    size = {"after": {"parameters": 43_000_000}, "teacher": {"parameters": 134_000_000}}
    speed = {
        "after": {"tokens_per_second": 440.0, "peak_memory_bytes": None},
        "teacher": {"tokens_per_second": 100.0, "peak_memory_bytes": 9},
    }
    found = verdict_on(scores(0.12, 6.0, size=size, speed=speed))
    assert found is not None
    assert found.costs == "0.32 times the size, 4.4 times the speed."
    nothing = verdict_on(scores(0.12, 6.0))
    assert nothing is not None
    assert nothing.costs == ""


def test_of_too_few_rows_and_without_a_teacher_nothing_is_judged() -> None:
    few = scores(0.9, 9.0, rows=4, retention={"rougeL": {"value": 0.9, "low": None, "high": None}})
    found = verdict_on(few)
    assert found is not None
    assert found.word == "too few rows to judge"
    assert found.sentence.startswith("Keeps 90 % of its teacher: too few rows to judge (4 of ")
    assert verdict_on({"rows": 45, "teacher": None, "after": {"perplexity": 2.0}}) is None
    assert verdict_on({"rows": 45, "teacher": {"other": 1.0}, "after": {"other": 2.0}}) is None


SIZE = {"before": {"parameters": 9}, "teacher": {"parameters": 9}}
REFERENCES = [{"reference": "ham"}] * 40 + [{"reference": "Ham."}] * 20 + [{"reference": "spam"}] * 40


@pytest.mark.parametrize(
    ("before", "more", "word", "said"),
    [
        ({"rougeL": 0.5, "perplexity": 9.0}, {}, "weak teacher", "; its teacher is no better than the student was before"),
        ({"rougeL": 0.6}, {}, "weak teacher", "; its teacher is no better than the student was before training: weak teacher."),
        ({"rougeL": 0.6, "perplexity": 11.0}, {}, "usable", "110 %]): usable."),
        ({"rougeL": 0.5, "perplexity": 10.0}, {}, "usable", "110 %]): usable."),  # its own teacher
        ({"rougeL": 0.6}, {"in_few_bits": {"format": "q8_0"}, "size": SIZE}, "usable", "110 %]): usable."),
        ({"rougeL": 0.6}, {"size": SIZE}, "weak teacher", "; its teacher is no better than the student was before training"),
        ({}, {"generations": REFERENCES}, "weak teacher", "; its teacher is no better than the same answer to everything: weak teacher."),
        ({}, {"rows": 8, "generations": [{"reference": str(row // 4)} for row in range(8)]}, "weak teacher", "same answer to everything"),
        ({}, {"rows": 8, "generations": [{"reference": str(row // 4 * row)} for row in range(8)]}, "usable", "110 %]): usable."),
        ({}, {"generations": [{"reference": str(row)} for row in range(100)]}, "usable", "110 %]): usable."),
    ],
)
def test_by_a_bad_teacher_no_student_is_called_usable(before: dict[str, float], more: dict[str, Any], word: str, said: str) -> None:
    found = verdict_on(scores(1.0, 10.0, before=before, **more))
    assert found is not None
    assert found.word == word
    assert said in found.sentence
    worse = verdict_on(scores(0.3, 10.0, before=before, **more))
    assert worse is not None
    assert worse.word == "not usable"


def test_a_teacher_that_is_always_right_is_not_called_weak() -> None:
    before = {"rougeL": 1.0, "perplexity": 9.0}
    found = verdict_on(scores(1.0, 10.0, before=before, generations=[{"reference": "ham"}] * 9) | {"teacher": {"rougeL": 1.0}})
    assert found is not None
    assert found.word == "usable"


def test_a_student_that_predicts_better_than_its_teacher_is_said_to() -> None:
    found = verdict_on(scores(None, 5.0, against_teacher={"perplexity": {"verdict": "better"}}))
    assert found is not None
    assert found.sentence == "It predicts the text better than its teacher: usable."


def test_a_teacher_that_is_never_right_makes_nothing_usable_by_its_text() -> None:
    never = {"teacher": {"rougeL": 0.0, "perplexity": 10.0}, "after": {"rougeL": 0.0, "perplexity": 10.0}}
    found = verdict_on(scores(None, 10.0) | never)
    assert found is not None
    assert found.word == "weak teacher"
