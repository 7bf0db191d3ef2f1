"""Every row that is read is counted once, and nothing is measured that was trained on, whatever the format."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bytes_tokenizer import CHATML, byte_level
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.prepare import PreparedData, prepare_data
from finetune.errors import BadRow, EmptyDataset
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.screen.data import data_report
from finetune.wizard.asking.prompter import drawn

NO_LOSS = -100


def chat(*texts: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * len(texts), texts, strict=False)]


def prepare(tmp_path: Path, rows: list[Any], seed: int = 1, **spec: Any) -> PreparedData:
    (tmp_path / "a.jsonl").write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    given = DatasetSpec(source=str(tmp_path / "a.jsonl"), **spec)
    return prepare_data(given, byte_level(CHATML), seed=seed, runtime=RuntimeOptions(cache_dir=tmp_path / "cache"))


def ids(*numbers: int) -> dict[str, Any]:
    return {"input_ids": [*numbers], "labels": [NO_LOSS, NO_LOSS, *numbers[2:]]}


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "messages": lambda n: {"messages": chat(f"q{n}", f"a{n}")},
    "preference": lambda n: {"prompt": f"q{n}", "chosen": f"a{n}", "rejected": "no"},
    "prompt_completion": lambda n: {"prompt": f"q{n}", "completion": f"a{n}"},
    "instruction": lambda n: {"instruction": f"q{n}", "output": f"a{n}"},
    "question_answer": lambda n: {"question": f"q{n}", "answer": f"a{n}"},
    "text": lambda n: {"text": f"a text {n}"},
    "tokenized": lambda n: ids(70, 71, 72 + n, 80),
}
ODD: dict[str, dict[str, Any] | str] = {
    "broken": "{",
    "no object": "[1]",
    "nothing": {},
    "blank": {"text": " "},
    "a picture": {"images": ["a.jpg"]},
    "not to be learned": {"messages": [*chat("q"), {"role": "assistant", "content": "a", "train": False}]},
    "unlabelled": {"input_ids": [1, 2], "labels": [NO_LOSS, NO_LOSS]},
}


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=12)
@given(
    odd=st.lists(st.sampled_from(list(ODD)), max_size=5),
    undesired=st.lists(st.booleans(), min_size=12, max_size=12),
    twice=st.integers(0, 4),
    samples=st.none() | st.integers(2, 20),
    held_out=st.sampled_from([0.1, 0.4]),
)
@pytest.mark.parametrize("kind", ROWS)
def test_every_row_is_counted_once(
    tmp_path: Path, kind: str, odd: list[str], undesired: list[bool], twice: int, samples: int | None, held_out: float
) -> None:
    rows = [{**ROWS[kind](number), "desirable": not marked} for number, marked in enumerate([False, False, False, *undesired])]
    other = {"not to be learned": "messages", "unlabelled": "tokenized"}  # in other formats their columns would name another one
    written = [*rows, *rows[:twice], *(ODD[name] for name in odd if other.get(name, kind) == kind)]
    prepared = None
    with suppress(EmptyDataset):  # of a few rows that are told twice, none may be left to measure on
        prepared = prepare(tmp_path, written, samples=samples, held_out=held_out, bad_rows=1.0)
    if prepared is None:
        assert samples is not None
        return
    report = prepared.report
    parts = [report.train, report.held_out, report.held_out_dropped, report.blank, report.skipped, sum(report.left_out.values())]
    assert report.read == len(written) == sum(parts) + report.not_asked
    assert report.format == kind
    assert len(prepared.train) == report.train_sequences == report.train
    assert len(prepared.held_out) == report.held_out
    assert set(report.columns) | set(report.ignored_columns) >= {*rows[0]}
    if kind in ("messages", "prompt_completion", "instruction", "question_answer"):
        assert report.left_out.get("column desirable marks the answer as undesired", 0) == sum(undesired) + sum(
            ([False] * 3 + undesired)[:twice]
        )
    if samples is not None:
        assert report.train + report.held_out + report.held_out_dropped <= samples


def test_rows_beyond_the_number_asked_for_are_said(tmp_path: Path) -> None:
    report = prepare(tmp_path, [ROWS["prompt_completion"](number) for number in range(1500)]).report
    assert (report.read, report.train, report.held_out, report.not_asked, report.samples) == (1500, 900, 100, 500, 1000)
    said = " ".join(drawn(data_report(report.to_dict()), 100).split())
    assert "1,500 read: 900 to train on, 100 held out, 500 not used: 1,000 were asked for" in said
    assert "not used" not in drawn(data_report(prepare(tmp_path, [ROWS["text"](n) for n in range(20)]).report.to_dict()), 100)


def test_rows_of_a_split_to_measure_on_are_counted_too(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, first, count in (("train", 0, 60), ("test", 50, 30)):
        rows = [{**ROWS["messages"](number), "label": number % 5 > 0} for number in range(first, first + count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = DatasetSpec(source=str(folder), eval_split="test", samples=40, held_out=0.5)
    report = prepare_data(spec, byte_level(CHATML), seed=1, runtime=RuntimeOptions(cache_dir=tmp_path / "cache")).report
    assert (report.read, report.left_out, report.train) == (90, {"column label marks the answer as undesired": 18}, 40)
    parts = [report.train, report.held_out, report.held_out_dropped, report.blank, report.skipped, report.not_asked, report.not_measured]
    assert sum(parts) + 18 == 90


@pytest.mark.parametrize(("there", "measured", "samples"), [(20, 20, None), (80, 50, None), (80, 50, 1000), (80, 50, 30)])
def test_a_split_to_measure_on_is_used_as_far_as_the_benchmark_does(tmp_path: Path, there: int, measured: int, samples: int | None) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, first, count in (("train", 0, 40), ("test", 100, there)):
        rows = [ROWS["prompt_completion"](number) for number in range(first, first + count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = DatasetSpec(source=str(folder), eval_split="test", samples=samples)
    report = prepare_data(spec, byte_level(CHATML), seed=1, runtime=RuntimeOptions(cache_dir=tmp_path / "cache")).report
    trained = min(40, samples or 40)
    assert (report.train, report.held_out, report.not_asked, report.not_measured) == (trained, measured, 40 - trained, there - measured)
    said = " ".join(drawn(data_report(report.to_dict()), 100).split())
    assert (", 30 of the other split not used" in said) == (there > measured)
    assert (f", {40 - trained} not used: {samples} were asked for" in said) == (trained < 40)


def test_rows_that_are_left_out_are_on_the_screen(tmp_path: Path) -> None:
    report = prepare(tmp_path, [{**ROWS["messages"](number), "label": number % 2 == 0} for number in range(20)]).report
    assert report.left_out == {"column label marks the answer as undesired": 10}
    said = " ".join(drawn(data_report(report.to_dict()), 100).split())
    assert "20 read, 10 left out: 9 to train on, 1 held out" in said
    assert "10 rows are left out: column label marks the answer as undesired." in said


def learned(prepared: PreparedData, part: str) -> list[set[tuple[str, str]]]:
    """For each row, the answers that have labels, each with the text before it."""
    tokenizer = byte_level(CHATML)
    found = []
    for row in getattr(prepared, part):
        answers, start = set(), None
        for place, label in enumerate([*row["labels"], NO_LOSS]):
            if label != NO_LOSS and start is None:
                start = place
            if label == NO_LOSS and start is not None:
                answers.add((tokenizer.decode(row["input_ids"][:start]), tokenizer.decode(row["input_ids"][start:place])))
                start = None
        found.append(answers)
    return found


def talks(count: int, opening: list[str] | None = None) -> list[dict[str, Any]]:
    """Conversations of three turns, stored once after each turn."""
    whole = [[text for turn in range(3) for text in (f"question {n}.{turn}", f"answer {n}.{turn}")] for n in range(count)]
    return [{"messages": chat(*(opening or []), *texts[: 2 * turns])} for turns in (1, 2, 3) for texts in whole]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_conversations_stored_turn_by_turn_are_held_out_as_a_whole(tmp_path: Path, seed: int) -> None:
    prepared = prepare(tmp_path, talks(40), seed=seed, held_out=0.3, samples=None)
    report = prepared.report
    trained = set().union(*learned(prepared, "train"))
    assert all(answers.isdisjoint(trained) for answers in learned(prepared, "held_out"))
    assert (report.held_out, report.train, report.held_out_by) == (36, 84, "conversations")
    assert [note for note in report.notes if "whole conversations are held out" in note]


def test_a_few_answers_that_training_knows_cost_their_held_out_rows_only(tmp_path: Path) -> None:
    rows = [{"messages": chat(f"q{n}", f"a{n}", "more", f"b{n}")} for n in range(100)]
    rows += [{"messages": chat(f"q{n}", f"a{n}")} for n in range(10)]
    prepared = prepare(tmp_path, rows, held_out=0.3, samples=None)
    trained = set().union(*learned(prepared, "train"))
    assert all(answers.isdisjoint(trained) for answers in learned(prepared, "held_out"))
    assert prepared.report.held_out_by == ""
    assert 0 < prepared.report.held_out_dropped < 10
    assert prepared.report.held_out + prepared.report.held_out_dropped == 33


def test_an_opening_that_all_conversations_share_is_said_and_their_last_answers_are_new(tmp_path: Path) -> None:
    rows = [{"messages": chat("hello", "Hello! What can I do?", f"q{n}", f"a{n}")} for n in range(50)]
    prepared = prepare(tmp_path, rows, held_out=0.2, samples=None)
    report = prepared.report
    assert (report.train, report.held_out, report.held_out_by) == (40, 10, "answers")
    assert [note for note in report.notes if note.startswith("Some earlier answers of held-out rows are also trained on")]
    last = [max(answers, key=lambda answer: len(answer[0])) for answers in learned(prepared, "held_out")]
    assert set(last).isdisjoint(set().union(*learned(prepared, "train")))


def test_the_contents_are_what_is_learned_from_however_it_was_chosen(tmp_path: Path) -> None:
    def prepared(samples: int | None = 1000, **changes: Any) -> PreparedData:
        spec = DatasetSpec(source=str(tmp_path / "a.jsonl"), samples=samples)
        given = {"seed": 1, "runtime": RuntimeOptions(cache_dir=tmp_path / "cache"), **changes}
        return prepare_data(spec, byte_level(CHATML), **given)

    prepare(tmp_path, [{"question": f"q{n}", "answer": f"a{n}"} for n in range(20)])
    first, all_of_them = prepared(), prepared(samples=None)
    assert all_of_them.fingerprint != first.fingerprint
    assert all_of_them.contents == first.contents
    others = [{"seed": 2}, {"supervise": "all"}, {"system": "Be brief."}, {"routed_by": "answer"}]
    assert len({first.contents, *(prepared(**change).contents for change in others)}) == 1 + len(others)


def test_where_few_openings_differ_rows_with_new_last_answers_say_more_than_whole_conversations(tmp_path: Path) -> None:
    rows = [{"messages": chat(f"hello {n % 20}", "Your order?", f"q{n}", f"a{n}")} for n in range(200)]
    report = prepare(tmp_path, rows, held_out=0.1, samples=None).report
    assert (report.held_out, report.held_out_groups, report.held_out_by) == (20, 20, "answers"), "and not two conversations of ten rows"


def test_prompts_that_are_repeated_are_held_out_as_a_whole_where_too_few_rows_would_be_left(tmp_path: Path) -> None:
    rows = [{"messages": chat(f"q{n % 90}", f"a{n % 90}")} for n in range(180)]
    report = prepare(tmp_path, rows, held_out=0.1, samples=None).report
    assert (report.held_out_by, report.held_out, report.held_out_groups) == ("prompts", 18, 9)


def test_answers_that_are_not_learned_do_not_count_as_known(tmp_path: Path) -> None:
    told = {"role": "assistant", "content": "Hello!", "weight": 0}
    rows = [{"messages": [*chat("hello"), told, *chat(f"q{n}", f"a{n}")]} for n in range(50)]
    report = prepare(tmp_path, rows, held_out=0.2, samples=None).report
    assert (report.train, report.held_out, report.held_out_by) == (40, 10, "")


def test_calls_are_part_of_what_rows_are_compared_by(tmp_path: Path) -> None:
    from finetune.data.hashes import hashes

    def row(number: int) -> Any:
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": number}}}
        return {"messages": [*chat("q"), {"role": "assistant", "content": "", "tool_calls": [call]}]}

    assert hashes(row(1)) == hashes(row(1))
    assert hashes(row(1))["row_hash"] != hashes(row(2))["row_hash"]
    assert hashes(row(1))["prompt_hash"] == hashes(row(2))["prompt_hash"]


def test_rows_of_tokens_are_trained_on_and_measured_as_they_are(tmp_path: Path) -> None:
    rows = [ids(70, 71, 72 + number, 80) for number in range(20)]
    prepared = prepare(tmp_path, rows)
    seen = [*prepared.train, *prepared.held_out]
    assert sorted((row["input_ids"], row["labels"]) for row in seen) == sorted((row["input_ids"], row["labels"]) for row in rows)
    tokenizer = byte_level(CHATML)
    for row in prepared.held_out:
        assert row["prompt_ids"] == [70, 71]
        assert (row["prompt"], row["reference"]) == (tokenizer.decode([70, 71]), tokenizer.decode(row["input_ids"][2:]))
    assert [[piece["supervised"] for piece in example] for example in prepared.report.examples] == [[False, True]] * 3
    assert prepared.report.template == "none"


def test_long_rows_of_tokens_are_cut_and_those_without_a_prompt_measured_on_their_second_half(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, [{"input_ids": [60 + number, *range(70, 90)]} for number in range(20)], max_length=10)
    assert prepared.report.truncated == prepared.report.train_sequences == 18
    assert prepared.train[0]["input_ids"][1:] == list(range(70, 79))
    assert prepared.train[0]["labels"] == [NO_LOSS, *prepared.train[0]["input_ids"][1:]]
    assert prepared.held_out[0]["prompt_ids"] == prepared.held_out[0]["input_ids"][:5]
    assert [note for note in prepared.report.notes if "Every token is learned, because there are no labels" in note]


def test_tokens_of_another_vocabulary_are_refused_with_their_place(tmp_path: Path) -> None:
    rows = [ids(70, 71, 72 + number, 80) for number in range(20)]
    rows[7] = ids(70, 71, 90_000)
    size = len(byte_level(CHATML))
    with pytest.raises(BadRow) as refused:
        prepare(tmp_path, rows)
    assert refused.value.message == f"a.jsonl line 8: token 90000 is not in the model's vocabulary of {size:,} tokens."


def test_of_a_few_rows_that_are_told_often_one_is_held_out_as_a_whole(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, [ids(70, 71, 72 + number % 5, 80) for number in range(30)])
    report = prepared.report
    assert (report.train, report.held_out, report.held_out_groups, report.held_out_by) == (24, 6, 1, "rows")
    (measured,) = set(map(tuple, prepared.held_out["input_ids"]))
    assert measured not in set(map(tuple, prepared.train["input_ids"]))


def test_rows_that_the_template_refuses_are_too_many_again_where_fewer_are_allowed_than_before(tmp_path: Path) -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}]}
    rows = [*({"messages": chat(f"question {number}", "answer")} for number in range(9)), {"messages": [*chat("look"), calls]}]
    assert prepare(tmp_path, rows, bad_rows=0.1).report.skipped == 1
    with pytest.raises(BadRow, match="1 of 10 rows cannot be used"):
        prepare(tmp_path, rows, bad_rows=0.0)
