"""The shapes in which people have their rows: each is learned exactly, or refused with the sentence that is expected; every row is counted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapes import ADDS, ASKED, SHAPES, Shape, a, call, s, t, u, x

from finetune.data.preview import preview_source
from finetune.data.reading import Rows, read_rows
from finetune.data.rows import RowFacts
from finetune.data.split import chosen_records
from finetune.errors import DatasetError
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

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


NESTED = ("tools of OpenAI", "function_call of OpenAI", "OpenAI with weights", "parts under several names", "xtuner", "Alpaca with system and history")
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
    assert (said in found.facts.notes) == bool(out)


FLAGS = ["train", "training", "trainable", "train_on_turn", "learn", "loss", "weight", "loss_weight", "loss_mask", "Train", "lossWeight"]


@pytest.mark.parametrize("value", [False, 0, 0.0, "0", "0.0", "false", "False", "no"])
@pytest.mark.parametrize("flag", FLAGS)
def test_a_turn_that_is_marked_is_read_and_not_learned(tmp_path: Path, flag: str, value: Any) -> None:
    rows = [{"messages": [u("q"), a("no", **{flag: value}), u(f"q{n}"), a(f"a{n}")]} for n in range(2)]
    assert records(read(tmp_path, write(tmp_path, "a.jsonl", rows))) == [{"messages": [u("q"), a("no", learn=False), *ASKED(n)]} for n in range(2)]


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
    assert "Weights of turns other than 0 and 1 count as 1 (2 rows)." in found.facts.notes
    assert "Turns of the user or the system that are marked to be learned are not: only answers are (1 row)." in found.facts.notes


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


PICTURE = "only text can be trained on"
FIRST = "a.jsonl: no row can be used; for example line 1: "
REFUSED: dict[str, tuple[str, Any, str]] = {
    "LLaVA": ("a.jsonl", {"image": "a.jpg", "conversations": ASKED(1)}, f"{FIRST}column image has images, audio or video; {PICTURE}"),
    "pictures beside messages": ("a.jsonl", {"images": ["a.jpg"], "messages": ASKED(1)}, f"{FIRST}column images has images, audio or video; {PICTURE}"),
    "sound beside a prompt": ("a.jsonl", {"audios": ["a.wav"], "prompt": "q", "completion": "a"}, f"{FIRST}column audios has images, audio or video; {PICTURE}"),
    "video bytes beside text": ("a.jsonl", {"video": {"bytes": "AAAA"}, "text": "x"}, f"{FIRST}column video has images, audio or video; {PICTURE}"),
    "a folder of pictures": ("a.csv", {"file_name": "a.png", "text": "x"}, f"a.csv: no row can be used; for example line 2: column file_name has images, audio or video; {PICTURE}"),
    "a place for a picture": ("a.jsonl", {"messages": [u("<image>What is it?"), a("b")]}, f"{FIRST}its text has <image>, a place for images, audio or video; {PICTURE}"),
    "a token for a picture": ("a.jsonl", {"text": "see <|image_pad|> here"}, f"{FIRST}its text has <|image_pad|>, a place for images, audio or video; {PICTURE}"),
    "a part that is a picture": ("a.jsonl", {"messages": [u([{"type": "image_url", "image_url": {"url": "x"}}]), a("b")]}, f"{FIRST}column messages.content has images, audio or video (image_url); {PICTURE}"),  # type: ignore[arg-type]
    "a part with sound and words": ("a.jsonl", {"messages": [u([{"audio": "x.wav", "text": "b"}]), a("b")]}, f"{FIRST}column messages.content has images, audio or video (audio); {PICTURE}"),  # type: ignore[arg-type]
    "pictures of a turn": ("a.jsonl", {"messages": [{**u("q"), "images": ["QUJD"]}, a("b")]}, f"{FIRST}column messages has a message with images, audio or video (images); {PICTURE}"),
    "a part nobody knows": ("a.jsonl", {"messages": [u([{"type": "chart", "data": 1}]), a("b")]}, f"{FIRST}column messages.content has a part of type 'chart'; only parts with text can be trained on"),  # type: ignore[arg-type]
    "a part without text": ("a.jsonl", {"messages": [u([{"type": "text", "words": "q"}]), a("b")]}, f"{FIRST}column messages.content has a part of type 'text' without text; it has words"),  # type: ignore[arg-type]
    "a call that is none": ("a.jsonl", {"messages": [u("q"), {"role": "tool_call", "content": "add 1"}]}, f"{FIRST}column messages has a tool call that is not a JSON object"),
    "arguments that are none": ("a.jsonl", {"messages": [u("q"), a("", function_call={"name": "add", "arguments": "1 + 1"})]}, f"{FIRST}column messages has a tool call whose arguments are not a JSON object"),
    "a stranger": ("a.jsonl", {"messages": [{"role": "critic", "content": "q"}, a("b")]}, f"{FIRST}column messages has a message of 'critic'; known are system, user, assistant and tool"),
    "a flag nobody understands": ("a.jsonl", {"messages": [u("q"), a("b", train="maybe")]}, f"{FIRST}column messages has a turn with train 'maybe', which is neither yes nor no"),
    "half a turn": ("a.jsonl", {"messages": [u("q"), a("b", train_detail=[{"begin_offset": 0}])]}, f"{FIRST}column messages has a turn of which only a part is to be learned (train_detail); only whole turns can be left out"),
    "undesired answers only": ("a.jsonl", {"prompt": "q", "completion": "a", "label": False}, "a.jsonl: no row is to be learned (2 rows because column label marks the answer as undesired)."),
    "OASST": ("a.jsonl", {"message_id": "i", "parent_id": "p", "text": "q", "role": "prompter"}, "a.jsonl has one turn of a conversation in each row (columns role and text)."),
    "prompts only": ("a.jsonl", {"prompt": [u("q")]}, "a.jsonl has prompts only (column prompt), and no answers to learn."),
    "prompts only, as text": ("a.jsonl", {"prompt": "q"}, "a.jsonl has prompts only (column prompt), and no answers to learn."),
    "choices": ("a.jsonl", {"question": "q", "choices": ["a"], "answerKey": "A"}, "a.jsonl has the columns question, choices, answerKey: prompts in question, but no column with a known name for answers."),
    "translations": ("a.jsonl", {"translation": {"en": "q", "de": "a"}}, "a.jsonl has pairs in the column translation (en and de), and does not say which is the prompt."),
    "pairs of sentences": ("a.jsonl", {"sentence1": "q", "sentence2": "a", "label": 1}, "a.jsonl has the columns sentence1, sentence2, label, and none of them is a known name for prompt, answer, text or messages."),
    "labels too short": ("a.jsonl", {"input_ids": [1, 2], "labels": [1]}, f"{FIRST}column input_ids has 2 tokens, but column labels has 1"),
    "labels of other tokens": ("a.jsonl", {"input_ids": [1, 2], "labels": [-100, 3]}, f"{FIRST}column labels has 3 at place 1, which is neither -100 nor the token there, 2"),
    "labels that are shifted": ("a.jsonl", {"input_ids": [1, 2, 3], "labels": [2, 3, -100]}, f"{FIRST}column labels is shifted by one token already; labels must stand at the place of their own token"),
    "tokens that are no numbers": ("a.jsonl", {"input_ids": [1, 2], "attention_mask": ["x", "y"]}, f"{FIRST}column attention_mask has no list of whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_shape_that_cannot_be_learned_is_refused_with_its_sentence(tmp_path: Path, name: str) -> None:
    file, row, sentence = REFUSED[name]
    path = write(tmp_path, file, [row, row])
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, path)
    assert refused.value.message.removesuffix(".") == sentence.removesuffix(".")
    assert refused.value.hint


CONFIGURATIONS: list[dict[str, Any]] = [
    {"name": "x", "version": "1.0", "scripts": {"test": "jest"}, "dependencies": {"a": "^1"}},
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8},
    {"approach": "fine-tuning", "model": "./m", "dataset": {"source": "a.jsonl"}, "training": {"epochs": 1}},
    {"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>"}], "model": {"type": "BPE"}, "decoder": {"type": "BPE"}},
    {"stopwords": ["a", "b", "c", "d", "e"]},
    {"version": "2.0.0", "tasks": [{"command": "make"}, {"command": "test"}]},
    {},
]


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda each: next(iter(each), "nothing"))
def test_settings_are_not_rows(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(settings))
    for look in (lambda: read(tmp_path, tmp_path / "a.json"), lambda: preview_source(DatasetSpec(source=str(tmp_path / "a.json")))):
        with pytest.raises(DatasetError, match="which are settings, not rows|an empty object") as refused:
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
