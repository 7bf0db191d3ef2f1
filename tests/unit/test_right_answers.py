"""Answers that are right or wrong: what counts as right, and that the score reaches every place where scores are read."""

from __future__ import annotations

import io
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from written_run import written_run

from finetune import registry
from finetune.benchmark.answers import ordered_by, worst
from finetune.benchmark.fail_if_worse import check_gate, gate, measured_by
from finetune.benchmark.fitting import fitting
from finetune.benchmark.intervals import statistics_of
from finetune.benchmark.names import NAMES, by_label, cut_short, endless, number, until_they_end
from finetune.benchmark.report import write_report
from finetune.benchmark.right_answers import last_number
from finetune.benchmark.scoring import Scores, benchmark_json
from finetune.errors import BenchmarkError
from finetune.publish.card import card_of
from finetune.recipe import Recipe
from finetune.screen.console import THEME
from finetune.screen.results import scores_table

ROWS = 12


@pytest.mark.parametrize(
    ("metric", "answers", "references", "score"),
    [
        ("accuracy", ["Spam.", "ham  no", "maybe"], ["spam", "ham no", "spam"], 2 / 3),
        ("exact_match", ["spam", " spam\n", "Spam", "spam."], ["spam"] * 4, 1 / 2),
        ("exact_match", ["cafe\u0301"], ["caf\u00e9"], 1),
        ("accuracy", ["肯定。", "ＳＰＡＭ", "हाँ।", "HAYIR", "نعم\u200f", "हाँ"], ["肯定", "spam", "हाँ", "hayır", "نعم", "नहीं"], 5 / 6),
        ("last_number", ["It costs $1,234.50.", "-5", "5", "none", "2 or 3"], ["#### 1234.5", "so -5.0", "-5", "7", "a 2"], 2 / 5),
        ("last_number", ["no idea", "4"], ["it depends", "4"], 1),
    ],
)
def test_what_is_right(metric: str, answers: list[str], references: list[str], score: float) -> None:
    found = registry.load("metrics", metric)().compute(predictions=answers, references=references)
    assert found == {metric: pytest.approx(score)}
    assert number(metric, 2 / 3) == "66.7 %"


@pytest.mark.parametrize(
    ("answers", "references", "valid", "fields"),
    [
        (['{"b": {"c": [1, 2]}, "a": 1}', "none"], ['{"a": 1, "b": {"c": [1, 3]}}', "[]"], 1 / 2, 2 / 4),
        (['{"a": true, "b": "1", "c": {}}', "[]"], ['{"a": 1, "b": 1, "c": {}}', "[]"], 1, 2 / 4),
        (['```json\n{"a": 1}\n```', "3", '{"a": 1', "[" * 100_000], ['{"a": 1}'] * 4, 0, 0),
    ],
)
def test_of_json_the_fields_count_wherever_they_stand(answers: list[str], references: list[str], valid: float, fields: float) -> None:
    metric = registry.load("metrics", "json")()
    assert metric.compute(predictions=answers, references=references) == {"valid_json": valid, "json_fields": fields}
    of_rows = statistics_of(metric.per_row(answers, references))
    assert (of_rows["valid_json"].raw, of_rows["json_fields"].raw) == (valid, fields)


@pytest.mark.parametrize(
    ("references", "metrics"),
    [
        (["Billing", "late delivery", "3"], ["accuracy"]),
        (["配送の遅れ", "支払い", "การจัดส่ง"], ["accuracy"]),
        (["ご注文の商品は9月9日にお届けする予定です。"], []),
        (["สินค้าจะมาถึงในวันที่ 12 ค่ะ"], []),
        (['{"city": "Lyon"}', "[]"], ["json", "exact_match"]),
        (["SELECT a FROM b;", "with c as (select 1) select * from c", "INSERT INTO a VALUES (1)"], ["exact_match"]),
        (["6 x 3 is 18.\n#### 18", "so\n#### -1,200", "well, it is\n#### 7."], ["last_number"]),
        (["a sum that nobody has made yet\n#### ."], []),
        (['<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "Which numbers shall I add up for you?"], ["exact_match"]),
        (["Billing", "Your order is on its way to Lyon."], []),
        (["Select one of the two from the list, please, and say why.", "No, we have none of them at the moment."], []),
        ([], []),
    ],
)
def test_answers_that_are_right_or_wrong_are_counted_without_being_asked_for(references: list[str], metrics: list[str]) -> None:
    rows = [{"reference": text} for text in references]
    assert fitting(rows) == metrics
    assert fitting([{**row, "is_text": True} for row in rows]) == [], "how a text goes on is no answer"
    assert set(metrics) - {"json"} <= set(measured_by(Recipe.from_layers({}))), "--fail-if-worse takes them"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He pays $18.00.", 18),
        ("#### 1,234,567", 1234567),
        ("1,2,3", 3),
        ("-$5", -5),
        ("$-5", -5),
        ("\u22125 degrees", -5),
        ("10-7", 7),
        ("18 %", 18),
        ("a half is .5", Decimal("0.5")),
        ("x2", 2),
        ("\u0663", 3),
        ("Das macht 3,5 und nicht 3,25.", Decimal("3.25")),
        ("1.234,50 €", Decimal("1234.5")),
        ("1\u202f234,5", Decimal("1234.5")),
        ("in (1,2)", 2),
        ("at (0.125,2)", 2),
        ("{1,2}", 2),
        ("1.250,2.500", Decimal("2.5")),
        ("1,2.5", Decimal("2.5")),
        ("12,34,567.5", Decimal("1234567.5")),
        ("１，２３４．５", Decimal("1234.5")),
        ("١٬٢٣٤٫٥", Decimal("1234.5")),
        ("no number", None),
    ],
)
def test_the_last_number_of_a_text(text: str, found: object) -> None:
    assert last_number(text) == found


def test_references_without_any_number_are_an_error_that_says_what_to_change() -> None:
    with pytest.raises(BenchmarkError, match="No reference answer has a number") as error:
        registry.load("metrics", "last_number")().compute(predictions=["4"], references=["four"])
    assert "benchmark.metrics" in str(error.value.hint)


def scores_of(metric: str, answers: list[str], references: list[str]) -> Scores:
    found = registry.load("metrics", metric)()
    values, per_row = found.compute(predictions=answers, references=references), found.per_row(answers, references)
    return Scores(values, [f"Question {row}" for row in range(ROWS)], references, answers, per_row, None, "answers", 16, 1)


def test_labels_are_counted_one_by_one_beside_what_one_answer_for_all_would_score() -> None:
    references = ["ham"] * 8 + ["Ham."] + ["spam"] * 3  # the same label, as it counts as right
    scores = benchmark_json(*(scores_of("accuracy", answers, references) for answers in (["?"] * ROWS, [*["ham"] * 11, "spam"])))
    said = "Right of each label: spam 1 of 3, ham 9 of 9. Always answering ham is right in 75 %."
    assert by_label(scores) == said
    screen = Console(width=200, theme=THEME, file=io.StringIO())
    screen.print(scores_table(scores, 200))
    assert said in screen.file.getvalue()  # type: ignore[attr-defined]
    alone = benchmark_json(*[scores_of("accuracy", ["ham"] * ROWS, ["ham"] * ROWS)] * 2)
    assert str(by_label(alone)).startswith("All 12 reference answers are ham, so they do not show")
    names = [f"name {row}" for row in range(ROWS)]
    assert by_label(benchmark_json(*[scores_of("accuracy", names, names)] * 2)) is None, "no two rows have the same answer"


def test_answers_that_were_cut_before_they_could_be_right_are_told() -> None:
    scores = replace(scores_of("accuracy", ["ham"] * ROWS, ["ham"] * ROWS), longest_reference=17)
    cut = benchmark_json(scores, scores)
    screen = Console(width=200, theme=THEME, file=io.StringIO())
    screen.print(scores_table(cut, 200))
    said = "Answers were cut after 16 tokens, but reference answers have up to 17: such long ones count as wrong."
    assert f"{said} To allow more: --set benchmark.max_new_tokens=18" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert cut_short(cut) == said
    assert cut_short({**cut, "longest_reference": 16}) is None, "it fits"
    assert cut_short({**cut, "after": {"rougeL": 0.5}}) is None, "a part of an answer has words in common too"
    assert cut_short({key: value for key, value in cut.items() if key != "longest_reference"}) is None, "an older run"


@pytest.mark.parametrize(
    ("before", "after", "counts", "next_step"),
    [(0, 7, "7 of 12 answers (before: 0)", True), (None, 6, "6 of 12 answers", False), (12, 1, None, False), (12, None, None, False)],
)
def test_answers_that_do_not_end_are_told_on_screen_report_and_card(
    before: int | None, after: int | None, counts: str | None, next_step: bool, tmp_path: Path
) -> None:
    scores = scores_of("accuracy", [str(row) for row in range(ROWS)], ["ham"] * ROWS)
    found = benchmark_json(replace(scores, endless=before), replace(scores, endless=after))
    assert endless(found) == (f"{counts} did not end within 16 tokens, though their references do." if counts else None)
    run = written_run(tmp_path / "run")
    run.write_json(run.benchmark, found)
    write_report(run)
    screen = Console(width=200, theme=THEME, file=io.StringIO())
    screen.print(scores_table(found, 200))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for place in (shown, (run.run / "report.html").read_text(encoding="utf-8"), card_of(run, repo=None)):
        assert ("did not end" in place) == bool(counts)
        assert (endless(found) or "") in place
    assert ("do. Train for longer, or with more rows." in shown) == next_step


@pytest.mark.parametrize(
    ("teacher", "next_step"), [(7, "Its teacher's do not end either"), (2, "Train for longer"), (None, "Train for longer")]
)
def test_a_student_whose_teachers_answers_do_not_end_is_not_to_be_trained_for_longer(teacher: int | None, next_step: str) -> None:
    scores = scores_of("accuracy", [str(row) for row in range(ROWS)], ["ham"] * ROWS)
    found = benchmark_json(replace(scores, endless=8), replace(scores, endless=9), replace(scores, endless=teacher))
    others = "" if teacher is None else f", teacher: {teacher}"
    assert endless(found) == f"9 of 12 answers (before: 8{others}) did not end within 16 tokens, though their references do."
    assert until_they_end(found).startswith(next_step)


@pytest.mark.parametrize("metric", ["accuracy", "exact_match", "last_number"])
def test_the_score_has_an_interval_and_is_in_table_report_card_and_gate(metric: str, tmp_path: Path) -> None:
    references = [f"{row}" for row in range(ROWS)]
    before = scores_of(metric, ["99"] * ROWS, references)
    after = scores_of(metric, ["99", *references[1:]], references)
    scores = benchmark_json(before, after, after)
    value = 11 / 12
    assert (scores["before"][metric], scores["after"][metric]) == (0, pytest.approx(value))
    low, high = scores["intervals"]["after"][metric]
    assert low < value < high <= 1
    assert scores["change"][metric]["verdict"] == "better"
    assert scores["retention"][metric]["value"] == pytest.approx(1)
    assert ordered_by(scores) == metric
    assert (worst(scores)[0].row, worst(scores)[0].score) == (0, 0)

    run = written_run(tmp_path / "run", change={"benchmark": {"metrics": [metric]}})
    run.write_json(run.benchmark, scores | {"teacher": None, "retention": None, "against_teacher": None})
    screen = Console(width=100, theme=THEME, file=io.StringIO())
    screen.print(scores_table(run.read_json(run.benchmark), 100))
    shown = " ".join(screen.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"{NAMES[metric]} 0.0 %" in shown
    assert "91.7 % [" in shown
    write_report(run)
    page = (run.run / "report.html").read_text(encoding="utf-8")
    assert f"Rows from best to worst by {NAMES[metric]}." in page
    assert "0.0\u00a0% → 91.7\u00a0%" in page, "and not broken between a number and its sign"
    card = card_of(run, repo=None)
    (listed, *_) = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]["metrics"]
    assert listed == {"type": "accuracy" if metric == "accuracy" else "exact_match", "name": NAMES[metric], "value": 0.9167}
    assert f"| {NAMES[metric]} | 0.0 % [0.0, " in card
    assert " %] | 91.7 % [" in card
    check_gate(metric, Recipe.load(run.recipe))
    assert gate(scores, metric) is None
    with pytest.raises(BenchmarkError, match=f"{NAMES[metric]} is worse than before: 91.7 % to 0.0 %"):
        gate(benchmark_json(after, before), metric)
