"""The shapes in which people have their rows: each is learned exactly, or refused with its sentence; every row is counted."""

from __future__ import annotations

import csv
import gc
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapes import ADDS, ASKED, Shape, a, call, s, t, u, x
from shapes import SHAPES as KNOWN
from shapes_choices import CHOICES
from shapes_refused import CONFIGURATIONS, PICTURE, REFUSED

from finetune.data.preview import preview_source
from finetune.data.reading import Rows, read_rows
from finetune.data.rows import RowFacts, TooManyBadRows
from finetune.data.split import chosen_records
from finetune.errors import DatasetError, EmptyDataset
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

SHAPES = KNOWN | CHOICES
ROWS = 3


def write(folder: Path, name: str, rows: Any) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith((".csv", ".tsv")):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(tmp_path: Path, source: Path, **spec: Any) -> Rows:
    return read_rows(DatasetSpec(source=str(source), **spec), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())


def records(rows: Rows) -> list[dict[str, Any]]:
    found = [record for batch in chosen_records(rows, np.arange(len(rows))) for record in batch]
    return [{key: value for key, value in record.items() if key not in ("file", "line")} for record in found]


def check_counts(facts: RowFacts) -> None:
    assert facts.read == facts.usable + facts.blank + facts.skipped + sum(facts.left_out.values())


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_learned_exactly(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    rows = [shape.row(number) for number in range(ROWS)]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    expected = [{"messages": shape.learned(number), **({"tools": shape.tools(number)} if shape.tools else {})} for number in range(ROWS)]
    assert records(found) == expected
    facts = found.facts
    check_counts(facts)
    assert (facts.read, facts.usable) == (ROWS, ROWS)
    assert facts.ignored_columns == list(shape.ignored)
    assert set(facts.columns) | set(facts.ignored_columns) == {column for row in rows for column in row}
    notes = " ".join(facts.notes)
    assert shape.said in notes
    assert all(f"`{column}`" in notes for column in shape.ignored)
    seen = preview_source(DatasetSpec(source=str(tmp_path / "a.jsonl")))
    assert (seen.format, seen.used_columns, seen.ignored_columns) == (facts.format, facts.columns, facts.ignored_columns)


NESTED = (
    "tools of OpenAI",
    "function_call of OpenAI",
    "OpenAI with weights",
    "parts under several names",
    "xtuner",
    "Alpaca with system and history",
)
TABLES = ("Alpaca", "OpenOrca", "DPO", "messages in CSV", "tools of ShareGPT", "HH-RLHF", "prompt, completion and system", "xLAM")


@pytest.mark.parametrize(
    ("ending", "name"),
    [(".parquet", name) for name in (*TABLES, "tools of OpenAI", "reasoning_content", "OpenAI", "SlimOrca", "Gemini")]
    + [(".json", name) for name in (*NESTED, "UltraChat", "LIMA", "thinking")]
    + [(ending, name) for ending in (".csv", ".tsv") for name in TABLES],
)
def test_the_same_rows_in_another_kind_of_file_are_the_same(tmp_path: Path, ending: str, name: str) -> None:
    shape: Shape = SHAPES[name]
    rows = [{**shape.row(number)} for number in range(ROWS)]
    for row in rows:
        for column, cell in row.items():
            if ending in (".csv", ".tsv") and isinstance(cell, list | dict):
                row[column] = json.dumps(cell)
    expected = [{"messages": shape.learned(number), **({"tools": shape.tools(number)} if shape.tools else {})} for number in range(ROWS)]
    assert records(read(tmp_path, write(tmp_path, f"a{ending}", rows))) == expected


MARKED: dict[str, tuple[str, list[Any], list[int]]] = {  # a column, its values, and the rows that are learned
    "KTO": ("label", [True, False, True], [0, 2]),
    "KTO in numbers": ("label", [0, 1, 1], [1, 2]),
    "KTO in words": ("kto_tag", ["true", "False", "TRUE"], [0, 2]),
    "KTO in floats": ("desirable", [1.0, 0.0, None], [0, 2]),
    "a column of bad ones": ("undesirable", [True, False, False], [1, 2]),
    "words of its own": ("label", ["desirable", "undesirable", "desirable"], [0, 2]),
    "ratings are no marks": ("rating", [1, 0, 1], [0, 1, 2]),
    "scores are no marks": ("score", [True, False, True], [0, 1, 2]),
    "classes are no marks": ("label", [0, 1, 2], [0, 1, 2]),
}


@pytest.mark.parametrize("columns", ["messages", "prompt", "instruction", "question"])
@pytest.mark.parametrize("name", MARKED)
def test_undesired_answers_are_left_out_counted_and_named(tmp_path: Path, name: str, columns: str) -> None:
    column, values, learned = MARKED[name]
    pairs = {"prompt": "completion", "instruction": "output", "question": "answer"}
    rows = [
        {**({columns: f"q{n}", pairs[columns]: f"a{n}"} if columns in pairs else {"messages": ASKED(n)}), column: value}
        for n, value in enumerate(values)
    ]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    assert records(found) == [{"messages": ASKED(n)} for n in learned]
    check_counts(found.facts)
    out = ROWS - len(learned)
    assert found.facts.left_out == ({f"column {column} marks the answer as undesired": out} if out else {})
    assert found.facts.ignored_columns == ([] if out else [column])
    assert found.facts.skipped == 0
    said = f"{out} row{'s are' if out > 1 else ' is'} left out: column {column} marks the answer as undesired."
    assert (f"{said} Rename the column if it means something else." in found.facts.notes) == bool(out)


@pytest.mark.parametrize(("name", "named"), [("label_text", None), ("sentiment", {"prompt": "text", "completion": "sentiment"})])
def test_the_number_of_a_class_is_no_mark(tmp_path: Path, name: str, named: dict[str, str] | None) -> None:
    rows = [{"text": f"q{n}", "label": n % 2, name: ["no", "yes"][n % 2]} for n in range(4)]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows), columns=named)
    assert records(found) == [{"messages": [u(f"q{n}"), a(["no", "yes"][n % 2])]} for n in range(4)]
    assert found.facts.ignored_columns == ["label"]


@pytest.mark.parametrize("column", ["train", "weight", "is_trainable", "use_for_training"])
@pytest.mark.parametrize("shape", ["OpenAI", "prompts", "DPO", "text", "ids alone"])
def test_rows_that_are_marked_as_not_to_be_learned_are_left_out(tmp_path: Path, column: str, shape: str) -> None:
    made = SHAPES[shape].row if shape in SHAPES else lambda n: {"prompt": f"q{n}", "completion": f"a{n}"}
    rows = [{**({"input_ids": [5, 6, n]} if shape == "ids alone" else made(n)), column: n % 2} for n in range(4)]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    assert (found.facts.usable, found.facts.left_out) == (2, {f"column {column} marks them as not to be learned": 2})
    assert column not in found.facts.ignored_columns


@pytest.mark.parametrize("shape", ["prompts", "text", "labels"])
def test_what_was_rejected_or_ignored_in_prodigy_is_left_out(tmp_path: Path, shape: str) -> None:
    made = {"prompts": {"prompt": "q0", "response": "a0"}, "text": {"text": "q0"}, "labels": {"text": "q0", "label": "a0"}}[shape]
    rows = [{**made, "_input_hash": n, "_task_hash": n, "answer": said} for n, said in enumerate(["accept", "reject", "ignore"])]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    assert records(found) == [{"messages": [{"role": "text", "content": "q0"}] if shape == "text" else ASKED(0)}]
    assert found.facts.left_out == {"column answer marks them as rejected or ignored": 2}
    without = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    assert not read(tmp_path, write(tmp_path, "b.jsonl", without)).facts.left_out, "and not of another program"


FLAGS = ["train", "training", "trainable", "train_on_turn", "learn", "loss", "weight", "loss_weight", "loss_mask", "Train", "lossWeight"]


@pytest.mark.parametrize("value", [False, 0, 0.0, "0", "0.0", "false", "False", "no"])
@pytest.mark.parametrize("flag", FLAGS)
def test_a_turn_that_is_marked_is_read_and_not_learned(tmp_path: Path, flag: str, value: Any) -> None:
    rows = [{"messages": [u("q"), a("no", **{flag: value}), u(f"q{n}"), a(f"a{n}")]} for n in range(2)]
    assert records(read(tmp_path, write(tmp_path, "a.jsonl", rows))) == [
        {"messages": [u("q"), a("no", learn=False), *ASKED(n)]} for n in range(2)
    ]


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "true", "yes", None, ""])
@pytest.mark.parametrize(("flag", "learn"), [*((flag, True) for flag in FLAGS), ("mask", False), ("masked", False), ("no_loss", False)])
def test_a_turn_that_is_marked_the_other_way_is_learned(tmp_path: Path, flag: str, learn: bool, value: Any) -> None:
    rows = [{"messages": [u("q"), a("so", **{flag: value}), u(f"q{n}"), a(f"a{n}")]} for n in range(2)]
    marked = a("so") if learn or value in (None, "") else a("so", learn=False)
    assert records(read(tmp_path, write(tmp_path, "a.jsonl", rows))) == [{"messages": [u("q"), marked, *ASKED(n)]} for n in range(2)]


def test_weights_between_are_learned_in_full_and_that_is_said(tmp_path: Path) -> None:
    rows = [{"messages": [{**u(f"q{n}"), "train": n == 0}, a(f"a{n}", weight=0.5)]} for n in range(2)]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    assert records(found) == [{"messages": ASKED(n)} for n in range(2)]
    assert found.facts.notes == [  # in the order of the turns, and not another one every time
        "User and system turns that are marked to be learned are not learned: only answers are (1 row).",
        "Weights of turns other than 0 and 1 count as 1 (2 rows).",
    ]


def test_a_row_of_which_nothing_is_to_be_learned_is_left_out(tmp_path: Path) -> None:
    rows = [{"messages": [u(f"q{n}"), a(f"a{n}", weight=n % 2)]} for n in range(4)]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    assert records(found) == [{"messages": ASKED(1)}, {"messages": ASKED(3)}]
    assert found.facts.left_out == {"every answer is marked as not to be learned": 2}
    check_counts(found.facts)


def test_an_empty_answer_is_read_and_not_learned(tmp_path: Path) -> None:
    found = read(tmp_path, write(tmp_path, "a.jsonl", [{"messages": [u("q"), a(" "), *ASKED(n)]} for n in range(2)]))
    assert records(found) == [{"messages": [u("q"), a(" ", learn=False), *ASKED(n)]} for n in range(2)]


TOKENS = {"input_ids": [10, 11, 12, 13], "attention_mask": [1, 1, 1, 1], "labels": [-100, -100, 12, 13]}
TOKENIZED: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    "ids and labels": (TOKENS, [10, 11, 12, 13], [-100, -100, 12, 13]),
    "ids alone": ({"input_ids": [10, 11]}, [10, 11], [10, 11]),
    "padding on the right": ({**TOKENS, "attention_mask": [1, 1, 1, 0]}, [10, 11, 12], [-100, -100, 12]),
    "padding on the left": ({"input_ids": [0, 0, 5, 6], "attention_mask": [0, 0, 1, 1]}, [5, 6], [5, 6]),
    "a mask of what is learned": ({"input_ids": [5, 6, 7], "completion_mask": [0, 0, 1]}, [5, 6, 7], [-100, -100, 7]),
    "two masks": (
        {"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "assistant_masks": [1, 0, 1]},
        [5, 6, 7],
        [-100, -100, 7],
    ),
    "ids in text": ({"input_ids": "[5, 6, 7]", "labels": "[-100, -100, 7]"}, [5, 6, 7], [-100, -100, 7]),
}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", TOKENIZED)
def test_rows_of_tokens_are_used_as_they_are(tmp_path: Path, name: str, ending: str) -> None:
    row, ids, labels = TOKENIZED[name]
    found = read(tmp_path, write(tmp_path, f"a{ending}", [{**row, "token_type_ids": [0], "text": "said"}] * 2))
    assert [(record["input_ids"], record["labels"]) for record in records(found)] == [(ids, labels)] * 2
    assert found.facts.format == "tokenized"
    assert found.facts.ignored_columns == ["token_type_ids", "text"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_shape_that_cannot_be_learned_is_refused_with_its_sentence(tmp_path: Path, name: str) -> None:
    file, row, sentence = REFUSED[name]
    path = write(tmp_path, file, [row, row])
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, path)
    assert refused.value.message.removesuffix(".") == sentence.removesuffix(".")
    assert refused.value.hint


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda each: next(iter(each), "nothing"))
def test_settings_are_not_rows(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(settings))
    for look in (lambda: read(tmp_path, tmp_path / "a.json"), lambda: preview_source(DatasetSpec(source=str(tmp_path / "a.json")))):
        with pytest.raises(DatasetError, match=r"in which nothing looks like rows|an empty object") as refused:
            look()
        assert refused.value.message.startswith("a.json: no row can be used; for example line 1: ")


def test_settings_beside_rows_are_one_bad_record(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(200)])
    (tmp_path / "config.json").write_text(json.dumps(CONFIGURATIONS[1]))
    facts = read(tmp_path, tmp_path).facts
    assert (facts.usable, facts.skipped) == (200, 1)
    check_counts(facts)


def test_parts_of_objects_can_be_named(tmp_path: Path) -> None:
    rows = [{"translation": {"en": f"q{n}", "de": f"a{n}", "fr": "x"}} for n in range(2)]
    path = write(tmp_path, "a.jsonl", rows)
    found = read(tmp_path, path, columns={"prompt": "translation.en", "completion": "translation.de"})
    assert records(found) == [{"messages": ASKED(n)} for n in range(2)]
    assert found.facts.ignored_columns == ["translation"]
    assert "`translation`" in found.facts.notes[0]


def test_texts_of_a_list_can_be_named_which_a_list_of_several_asks_for(tmp_path: Path) -> None:
    rows = [{"inputs": [f"q{n}", f"{n}"], "targets": [f"a{n}", "other"][: n + 1], "of": {"text": [f"b{n}", "x"]}} for n in range(2)]
    path = write(tmp_path, "a.jsonl", rows)
    with pytest.raises(TooManyBadRows, match="line 2: column targets has a list, not text") as refused:
        read(tmp_path, path)
    assert "such as targets.0 (the first): --set dataset.columns.prompt=NAME" in str(refused.value.hint)
    found = read(tmp_path, path, columns={"prompt": "inputs.0", "completion": "targets.0"})
    assert records(found) == [{"messages": ASKED(n)} for n in range(2)]
    assert set(found.facts.ignored_text) == {"inputs", "targets", "of"}
    found = read(tmp_path, path, columns={"prompt": "targets.0", "completion": "of.text.1"})
    assert records(found) == [{"messages": [u(f"a{n}"), a("x")]} for n in range(2)]


@pytest.mark.parametrize(("asked", "answered"), [(0, 1), (1, 0), (2, 10), (10, 2)])
def test_two_texts_of_one_list_are_those_that_were_named(tmp_path: Path, asked: int, answered: int) -> None:
    path = write(tmp_path, "a.jsonl", [{"turns": [f"turn {place} of {n}" for place in range(12)]} for n in range(2)])
    found = read(tmp_path, path, columns={"prompt": f"turns.{asked}", "completion": f"turns.{answered}"})
    assert records(found) == [{"messages": [u(f"turn {asked} of {n}"), a(f"turn {answered} of {n}")]} for n in range(2)]


def test_a_column_that_is_empty_in_every_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset, match=r"a\.jsonl: the column document is empty in every row\."):
        read(tmp_path, write(tmp_path, "a.jsonl", [{"id": n, "document": ""} for n in range(2)]))


def test_rows_without_pictures_are_used_where_others_have_some(tmp_path: Path) -> None:
    rows = [{"messages": ASKED(n), "images": ["a.jpg"] if n == 7 else []} for n in range(200)]
    found = read(tmp_path, write(tmp_path, "a.jsonl", rows))
    assert records(found) == [{"messages": ASKED(n)} for n in range(200) if n != 7]
    assert found.facts.skipped_rows[0].reason == f"column images has images, audio or video; {PICTURE}"


@pytest.mark.parametrize("text", ["What does the <video> tag do?", "Close it: <audio></audio>", "a <img src='x'> b", "x <image_count> y"])
def test_words_about_pictures_are_words(tmp_path: Path, text: str) -> None:
    rows = [{"prompt": text, "completion": f"a{n}"} for n in range(2)]
    assert records(read(tmp_path, write(tmp_path, "a.jsonl", rows))) == [{"messages": [u(text), a(f"a{n}")]} for n in range(2)]


def test_numbers_in_calls_and_definitions_stay_numbers(tmp_path: Path) -> None:
    rows = [{"messages": [u(f"q{n}"), a("", tool_calls=[call("add", a=n, b=0.5, c=None, d=[1, "1"])])], "tools": [ADDS]} for n in range(2)]
    found = records(read(tmp_path, write(tmp_path, "a.jsonl", rows)))
    assert found[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": 0.5, "c": None, "d": [1, "1"]}
    assert found[1]["tools"] == [ADDS]


def test_there_are_sixty_shapes() -> None:
    assert len(SHAPES) + len(MARKED) + len(TOKENIZED) + len(REFUSED) >= 60
    assert {s("x")["role"], t("x")["role"], x("x")["role"]} == {"system", "tool", "text"}


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.json", "a.jsonl"])
def test_files_are_closed_when_they_are_read(tmp_path: Path, name: str) -> None:
    rows = {".json": json.dumps([{"text": "one"}, {"text": "two"}]), ".jsonl": '{"text": "one"}\n{"text": "two"}\n'}
    (tmp_path / name).write_text(rows.get(Path(name).suffix, "text\none\n\ntwo\n"))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", ResourceWarning)
        assert records(read(tmp_path, tmp_path / name))
        gc.collect()
    assert [str(warning.message) for warning in heard] == []
