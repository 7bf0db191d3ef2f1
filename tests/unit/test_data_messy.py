"""Files as they lie around: each is read for what its rows say, or refused in a sentence; never learned as the text of its own syntax."""

from __future__ import annotations

import ast
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from shapes import ADD, ADDS, a, s, u

from finetune.data.arrow_records import restored
from finetune.data.formats.tools import read_tools
from finetune.data.json_values import parsed
from finetune.data.preview import preview_source
from finetune.data.reading import Rows, read_rows
from finetune.errors import DatasetError
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

CHAT = [u('it\'s {x} "y"'), a("a\nb} {c] [d")]
PAIR = [u("q"), a("a")]
OBJECT = '{"prompt": "q", "completion": "a"}\n'


def read(tmp_path: Path, name: str, content: str, **spec: Any) -> Rows:
    file = tmp_path / name
    file.write_bytes(content.encode())
    return read_rows(DatasetSpec(source=str(file), samples=None, **spec), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())


def turns(rows: Rows) -> list[Any]:
    return [restored(row)["messages"] for row in rows.dataset]


def cell(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def numpy_list(items: list[Any]) -> str:
    return "[" + "\n ".join(map(repr, items)) + "]"


# What pandas and numpy print into a table.


@pytest.mark.parametrize("printed", [repr, numpy_list, json.dumps], ids=["python", "numpy", "json"])
@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("messages", "{chat}", CHAT),
        ("id,conversations", "1,{chat}", CHAT),
        ("prompt,chosen,rejected", "z,{chat},{chat}", CHAT),
        ("prompt,completion", "{asked},{answered}", CHAT),
        ("instruction,output,history", "q,a,{pairs}", [u("h"), a("g"), *PAIR]),
        ("messages", "{texts}", PAIR),
    ],
)
def test_lists_that_a_table_has_as_text_are_lists(tmp_path: Path, printed: Any, header: str, row: str, expected: Any) -> None:
    lists = {"chat": CHAT, "asked": CHAT[:1], "answered": CHAT[1:], "pairs": [["h", "g"]], "texts": ["q", "a"]}
    line = row.format(**{name: cell(printed(value)) for name, value in lists.items()})
    assert turns(read(tmp_path, "a.csv", f"{header}\n{line}\n{line}\n")) == [expected] * 2


@pytest.mark.parametrize(
    "answers",
    ["{'text': ['a', 'b'], 'answer_start': [3, 4]}", "{'text': array(['a', 'b'], dtype=object), 'answer_start': array([3, 4])}"],
)
def test_the_answers_of_squad_in_a_table_are_their_texts(tmp_path: Path, answers: str) -> None:
    assert turns(read(tmp_path, "a.csv", f"question,answers\nq,{cell(answers)}\n")) == [PAIR]
    rows = read(tmp_path, "b.csv", 'question,answer\nq,"[""a"", ""b""]"\n')
    assert turns(rows) == [[u("q"), a('["a", "b"]')]]  # a list may be what is asked for


NO_LISTS = ["[1 2 ... 3]", "{'a': nan}", "[a, b]", "{ int x; }", "[f('a')]", "[1] [2]", "{'a', 'b'}", "['a' + 'b']", "['\\d']"]


@pytest.mark.parametrize(
    "text",
    [*NO_LISTS, "[1, 2", "[(", "{'a': 1} and", "[1 ()()]", "[f'a']", f"[{'1+' * 100_000}1]", f"[{'1 ' * 500_000}]"],
    ids=lambda text: text[:20],
)
def test_what_is_no_list_stays_text(text: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert parsed(text) == text
    assert not heard


def test_another_thread_that_parses_does_not_make_a_list_text(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, fails = ast.parse, iter([True])

    def disturbed(text: str) -> ast.Module:
        if next(fails, False):
            raise SystemError  # as Python 3.11 does
        return parse(text)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert parsed("['a']") == ["a"]


def test_tuples_that_numpy_printed_are_items() -> None:
    assert parsed("[('a', 'b')\n ('c', 'd') -1]") == [("a", "b"), ("c", "d"), -1]


def test_tools_that_python_printed_are_tools() -> None:
    assert read_tools(repr([ADD]), "tools") == [ADDS]


# Names that do not fit what is inside.


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", OBJECT * 3, "a.txt has records in JSON."),
        ("a.txt", json.dumps([{"text": "a"}] * 3, indent=1), "a.txt has records in JSON."),
        ("a.csv", '{"text": "a"}\n' * 3, "a.csv has records in JSON."),
        ("a.txt", "prompt\tcompletion\nq\ta\n", "a.txt has a table, with the columns prompt, completion."),
        ("a.txt", "id,text\n1,b\n2,c\n", "a.txt has a table, with the columns id, text."),
    ],
)
def test_records_are_not_learned_as_running_text(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, name, content)
    assert refused.value.message == sentence
    assert "Rename it" in str(refused.value.hint)
    if not name.endswith(".csv"):
        assert str(refused.value.hint).endswith("text_as=line")
        assert len(read(tmp_path, name, content, text_as="line")) > 1


@pytest.mark.parametrize(
    "text", ["Question, answer\nThat is a title, and this, too, is text.\n", "{ braces }\n\nand more\n", "a\tb\nc\td\n"]
)
def test_running_text_is_no_table(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "a.txt", text).facts.format == "text"
    assert read(tmp_path, "a.md", OBJECT + text).facts.format == "text"


def test_the_name_of_an_only_column_is_said(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "The first text.\nThe second.\n").facts.notes == [
        "The only column, `The first text.`, is learned as text."
    ]
    assert read(tmp_path, "b.csv", "text\nThe second.\n").facts.notes == []


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ('prompt, completion\n"q", "a, b"\n', "a, b"),
        ('prompt,completion\n"q", "a"\n', "a"),
        ("prompt, completion\nq, a\n", "a"),
        ("sep=;\nprompt; completion\nq; a\n", "a"),
        ("prompt,completion\nq, a\n", " a"),  # some want their answers to begin with a blank
        ('prompt,completion\nq, "a" he said\n', ' "a" he said'),
        ('prompt,completion\nq, "a\n', ' "a'),
        ('prompt,completion\n"q", "a\nb"\n', "a\nb"),
    ],
)
def test_blanks_behind_delimiters_are_no_part_of_cells(tmp_path: Path, content: str, answer: str) -> None:
    assert turns(read(tmp_path, "a.csv", content)) == [[u("q"), a(answer)]]


@pytest.mark.parametrize(("name", "blank"), [("a.csv", ",\n"), ("a.csv", " , \n"), ("a.jsonl", "{}\n"), ("a.jsonl", '{"prompt": null}\n')])
def test_rows_with_nothing_in_them_are_blank_and_not_wrong(tmp_path: Path, name: str, blank: str) -> None:
    row = OBJECT if name == "a.jsonl" else "q,a\n"
    facts = read(tmp_path, name, ("prompt,completion\n" if name == "a.csv" else "") + (row + blank) * 2).facts
    assert (facts.read, facts.usable, facts.blank, facts.skipped) == (4, 2, 2, 0)
    shown = preview_source(DatasetSpec(source=str(tmp_path / name)), RuntimeOptions(cache_dir=tmp_path / "cache"))
    assert (len(shown.examples), shown.skipped) == (2, [])
    for look in (read, lambda *_: preview_source(DatasetSpec(source=str(tmp_path / name)), RuntimeOptions())):
        with pytest.raises(DatasetError, match=r": the columns prompt, completion are empty in every row\."):
            look(tmp_path, name, "prompt,completion\n,\n" if name == "a.csv" else '{"prompt": "", "completion": null}\n')


# Columns whose first value comes late.

ROW = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize("before", [(), (None,), ("",)], ids=["absent", "null", "empty"])
@pytest.mark.parametrize(
    ("row", "name", "value", "expected"),
    [
        (ROW, "label", False, None),
        (ROW, "weight", 0, None),
        (ROW, "system", "s", [s("s"), *PAIR]),
        (ROW, "history", [["h", "g"]], [u("h"), a("g"), *PAIR]),
        ({"instruction": "q", "output": "a"}, "input", "i", [u("q\n\ni"), a("a")]),
        ({"question": "q", "answer": "a"}, "context", "c", [u("c\n\nq"), a("a")]),
        ({"question": "q", "answer": "a"}, "reasoning", "r", [u("q"), a("a", reasoning_content="r")]),
    ],
)
def test_a_column_that_begins_behind_the_sample_is_read(
    tmp_path: Path, before: tuple[Any, ...], row: dict[str, Any], name: str, value: Any, expected: Any
) -> None:
    early = row | dict.fromkeys([name] if before else [], *before)
    rows = [*([early] * 210), row | {name: value}, early]
    found = read(tmp_path, "a.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    learned = turns(found)
    assert learned[-1] == learned[0] == PAIR
    assert learned[210:-1] == ([expected] if expected else [])
    assert sum(found.facts.left_out.values()) == (expected is None)
    assert name in found.facts.columns
    assert found.facts.ignored_columns == []


def test_a_late_column_does_not_bring_one_that_the_sample_speaks_against(tmp_path: Path) -> None:
    labels = ["good"] * 50 + ["neutral"] * 160 + ["bad"]
    rows = [ROW | {"label": label} for label in labels] + [ROW | {"label": "bad", "system": "s"}]
    found = read(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert (found.facts.columns, found.facts.ignored_columns) == (["system", "prompt", "completion"], ["label"])
    assert (len(found), turns(found)[-1]) == (212, [s("s"), *PAIR])


def test_tools_and_labels_that_come_late(tmp_path: Path) -> None:
    rows = [{"messages": PAIR}] * 210 + [{"messages": PAIR, "tools": [ADD]}]
    found = read(tmp_path, "a.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    assert restored(found.dataset[210])["tools"] == [ADDS]
    rows = [{"saga": "Once upon a time"}] * 210 + [{"saga": "The end", "id": 7}]
    assert read(tmp_path, "c.jsonl", "".join(json.dumps(each) + "\n" for each in rows)).facts.ignored_columns == ["id"]
    rows = [ROW] * 210 + [ROW | {"id": 7}, ROW | {"system": "s"}]
    assert read(tmp_path, "d.jsonl", "".join(json.dumps(each) + "\n" for each in rows)).facts.ignored_columns == ["id"]
    rows = [{"input_ids": [1, 2]}] * 210 + [{"input_ids": [1, 2], "labels": [-100, 2]}]
    with pytest.raises(DatasetError, match=r"b\.jsonl has labels in later rows only\."):
        read(tmp_path, "b.jsonl", "".join(json.dumps(each) + "\n" for each in rows))


# Parts of a prompt, weights.


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "q", "question": "p", "answer": "a"}, "q\n\np"),
        ({"instruction": "q", "question": PAIR, "answer": "a"}, "q"),
        ({"instruction": "", "input": "p", "output": "a"}, "p"),
        ({"prompt": "q", "input": "p", "output": "a"}, "q\n\np"),
        ({"prompt": "q", "context": "c", "completion": "a"}, "q\n\nc"),
        ({"input": "q", "context": "c", "output": "a"}, "q\n\nc"),
        ({"prompt": "q", "input": "p", "chosen": "a", "rejected": "b"}, "q\n\np"),
        ({"content": "q", "summary": "a"}, "q"),
        ({"prompt": "q", "context": json.dumps(PAIR), "completion": "a"}, "q"),
    ],
)
def test_every_part_of_a_prompt_is_in_it(tmp_path: Path, row: dict[str, Any], prompt: str) -> None:
    found = read(tmp_path, "a.jsonl", (json.dumps(row) + "\n") * 2)
    assert turns(found) == [[u(prompt), a("a")]] * 2
    assert found.facts.ignored_columns == [name for name in row if name == "rejected" or row[name] in (PAIR, json.dumps(PAIR))]


@pytest.mark.parametrize("answer", [{"output": "a"}, {"chosen": "a", "rejected": "b"}])
def test_a_part_that_all_prompts_repeat_is_not_asked_twice_and_any_other_is_asked(tmp_path: Path, answer: dict[str, str]) -> None:
    for name, parts, asked in [("a", ["cat", "hen"], [0, 0]), ("b", ["the", "cat"], [1, 1])]:
        rows = [{"prompt": f"Translate the word{f' {part}' * (name == 'a')}", "input": part, **answer} for part in parts]
        found = read(tmp_path, f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        assert [each[0]["content"].count(f"\n\n{part}") for each, part in zip(turns(found), parts, strict=True)] == asked
        assert ("input" in found.facts.ignored_columns) is (name == "a")
    rows = [{"prompt": "q", "input": "p", **answer}] * 3 + [{"prompt": None, "input": "p", **answer}]
    found = read(tmp_path, "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows), bad_rows=0.5)
    assert (turns(found), found.facts.skipped) == ([[u("q\n\np"), a("a")]] * 3, 1), "a row without prompt decides nothing"


def test_rows_without_weight_are_left_out_whatever_the_others_weigh(tmp_path: Path) -> None:
    weights = [0, 0.5, 1, 2.5, None]
    found = read(tmp_path, "a.jsonl", "".join(json.dumps({**ROW, "weight": weight}) + "\n" for weight in weights))
    assert (len(found), found.facts.left_out) == (4, {"column weight marks them as not to be learned": 1})
    assert found.facts.notes[0] == "Weights of rows (column weight) other than 0 and 1 count as 1 (2 rows)."


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking", "Complex_CoT"])
@pytest.mark.parametrize("names", [("question", "answer"), ("instruction", "output"), ("prompt", "completion")])
def test_reasoning_in_a_column_is_that_of_the_answer(tmp_path: Path, key: str, names: tuple[str, str]) -> None:
    rows = [{names[0]: "q", key: "r", names[1]: "a"}, {names[0]: "q", key: "r", names[1]: "<think>t</think>a"}]
    found = read(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert turns(found) == [[u("q"), a("a", reasoning_content="r")], [u("q"), a("<think>t</think>a")]]


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"id": 1, "turns": PAIR}, "Name the column: --set dataset.columns.messages=turns"),
        (
            {"id": "x", "problem": "why is", "key": "A b"},
            "Name them: --set dataset.columns.prompt=problem --set dataset.columns.completion=key",
        ),
    ],
)
def test_a_hint_names_columns_that_can_be_meant(tmp_path: Path, row: dict[str, Any], hint: str) -> None:
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, "a.jsonl", (json.dumps(row) + "\n") * 2)
    assert str(refused.value.hint).startswith(hint)


@pytest.mark.parametrize(
    ("solution", "answer", "learned"), [("1 + 3 = 4", "4", "1 + 3 = 4"), ("B", "B, because", "B, because"), (None, "4", "4")]
)
def test_the_worked_solution_is_learned_and_not_the_number_at_its_end(tmp_path: Path, solution: Any, answer: str, learned: str) -> None:
    row = {"problem": "q", "solution": solution, "answer": answer}
    assert turns(read(tmp_path, "a.jsonl", json.dumps(row) + "\n")) == [[u("q"), a(learned)]]


# Files that lie together.


def test_a_zip_is_read_as_a_folder_is_and_what_is_left_is_said(tmp_path: Path) -> None:
    texts = {f"{number}.txt": f"Text {number}." for number in range(3)}
    for others, kept in (({"a.pdf": "%PDF"}, 3), ({"meta.json": '[{"text": "x"}]', "README.md": "about"}, 1)):
        folder = tmp_path / f"folder{kept}"
        folder.mkdir()
        with zipfile.ZipFile(tmp_path / f"{kept}.zip", "w") as archive:
            for name, content in (texts | others).items():
                (folder / name).write_text(content)
                archive.writestr(name, content)
        for source in (folder, tmp_path / f"{kept}.zip"):
            found = read_rows(DatasetSpec(source=str(source), samples=None), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
            assert len(found) == kept
            assert found.facts.notes[0].startswith(f"Not read in {source.name}: ")
            assert ("README" in found.facts.notes[0], "1.txt" in found.facts.notes[0]) == (False, kept == 1)


@pytest.mark.parametrize(("files", "documents"), [(1, 50), (2, 50), (50, 50), (60, 60)])
def test_many_files_are_a_document_each_and_few_are_cut_to_hold_some_out(tmp_path: Path, files: int, documents: int) -> None:
    content = "".join(f"Paragraph {number:02} here.\n\n" for number in range(50))
    for number in range(files):
        (tmp_path / f"{number}.txt").write_text(content)
    found = read_rows(DatasetSpec(source=str(tmp_path), samples=None), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    assert len(found) == documents


def test_splits_inside_a_document_that_are_not_read_are_named(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.json", json.dumps({"train": [ROW, ROW], "test": [ROW], "extra": [ROW] * 3}))
    assert len(rows) == 2
    assert rows.facts.notes == ["Not read in a.json, because the split is train: test (1), extra (3)."]
