"""Numbers and codes of a reference are found whatever is around them, and one digit that differs is seen."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.benchmark.answers import all_answers, worst
from finetune.benchmark.copied import codes, copied, missing
from finetune.benchmark.names import codes_copied


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Order AB-1234 ships on 2026-05-01.", {"ab-1234", "2026-05-01"}),
        ("Order AB-1243 ships on 2026-05-01.", {"ab-1243", "2026-05-01"}),
        ("A 30-day return, 1,234.50 EUR (or 1.234,50 €), at 10:30!", {"30", "1,234.50", "1.234,50", "10:30"}),
        ("Write to Help@Shop.example, or see https://shop.example/a?b=1.", {"help@shop.example", "https://shop.example/a?b=1"}),
        (
            "Set max_length or __init__; v2.1.0, UTF-8, x86_64, 3/4, 50%, #17.",
            {"max_length", "__init__", "v2.1.0", "utf-8", "x86_64", "3/4"},
        ),
        ("one,2,three item 4711-A, Größe 42cm and ４２", {"2", "4711-a", "42cm", "42"}),
        ("Don't, e.g. and/or US-based words: nothing.", set()),
        ("您的订单84731已发货,预计3天内送达。见https://shop.example/a。", {"84731", "3", "https://shop.example/a"}),
        ("注文番号AB-84731は3日以内に届きます", {"ab-84731", "3"}),
        ("주문 84731은 3일 이내에 도착합니다; คำสั่งซื้อ12จะมาถึง; ב5 ימים", {"84731", "3", "12", "5"}),
        ("طلبك رقم ٨٤٧٣١ سيصل خلال ٣ أيام", {"84731", "3"}),
        ("Заказ №84731 прибудет через 3 дня, модель Ж-7", {"84731", "3", "ж-7"}),
        ("", set()),
    ],
)
def test_what_is_a_number_or_a_code(text: str, found: set[str]) -> None:
    assert found <= codes(text)
    assert codes(text) - found <= {"50", "17"}


@pytest.mark.parametrize("answer", ["订单84731明天送达。", "84731", "８４７３１号"])
def test_a_number_is_copied_whatever_script_stands_around_it(answer: str) -> None:
    assert copied([answer, "订单84732明天送达。"], ["您的订单84731已发货。"] * 2) == ([1, 0], [1, 1])


def test_each_row_counts_what_its_answer_has_of_its_own_reference() -> None:
    references = ["Order 4711 costs 12.50.", "No number here.", "Ask a@b.example.", "7 and 7 again"]
    answers = ["Order 4712 costs 12.50, or 4711x.", "It is 5.", "ASK A@B.EXAMPLE!", "seven"]
    assert copied(answers, references) == ([1, 0, 1, 0], [2, 0, 1, 1])
    assert missing(answers[0], references[0]) == ["4711"]


def scores(**more: Any) -> dict[str, Any]:
    rows = [("Order 4711.", "Order 4712."), ("Fine.", "Fine."), ("Code X1 and Y2.", "Code X1.")]
    generations = [{"prompt": "q", "reference": reference, "after": answer} for reference, answer in rows]
    per_row = {"rougeL": [0.5, 1.0, 0.5], "codes_copied": [0, 0, 1], "codes": [1, 0, 2]}
    return {"generations": generations, "per_row": per_row, "before": {"copied": 0.0}, "after": {"copied": 1 / 3}, "teacher": None, **more}


def test_it_is_told_in_numbers_and_not_at_all_where_there_are_none() -> None:
    assert codes_copied(scores()) == "1 of 3 numbers and codes of the references (before: 0)"
    assert codes_copied(scores(teacher={"copied": 1.0})) == "1 of 3 numbers and codes of the references (before: 0, teacher: 3)"
    assert codes_copied(scores(per_row={"rougeL": [0.5]})) is None
    many = scores(per_row={"rougeL": [0.5] * 9, "codes_copied": [0] * 8 + [1], "codes": [1] + [0] * 7 + [2]})
    assert str(codes_copied(many)).endswith("of the references (before: 0), in 2 rows: too few to judge")


def test_the_worst_answers_come_first_and_say_what_they_lack() -> None:
    found = worst(scores())
    assert [(answer.row, answer.score, answer.missing) for answer in found] == [(0, 0.5, ["4711"]), (2, 0.5, ["y2"]), (1, 1.0, [])]
    assert worst(scores(per_row={})) == []
    assert [answer.row for answer in all_answers(scores(per_row={}))] == [0, 1, 2]
