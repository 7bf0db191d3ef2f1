"""What the wizard shows before any model is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.data.preview import preview_source
from finetune.data.tokens.render import Piece
from finetune.errors import BadRow, EmptyDataset
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.wizard.rows.data_preview import fragments

ASKED, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def test_columns_format_and_the_supervised_part_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("question;answer;note\nWas?;Käse.;x\nWo?;Dort;y\n".encode("cp1252"))
    preview = preview_source(DatasetSpec(source=str(file)), limit=1)
    assert (preview.columns, preview.format, preview.ignored_columns) == (["question", "answer", "note"], "question_answer", ["note"])
    assert preview.examples == [[Piece("Was?\n", False), Piece("Käse.", True)]]
    assert preview.records == [{"question": "Was?", "answer": "Käse.", "note": "x"}]
    assert preview.notes == ["a.csv is read as cp1252, with words such as Käse. To correct wrong letters: --set dataset.encoding=NAME"]


def test_only_a_fine_tuned_model_is_said_to_learn_the_marked_part_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nWas?,Dies\n")
    seen = preview_source(DatasetSpec(source=str(tmp_path / "a.csv")))
    said = ["".join(text for _, text in fragments(seen, distilling=distilling)) for distilling in (False, True)]
    assert "the model learns the marked part" in said[0]
    assert "its answer is marked" in said[1]
    assert "learns" not in said[1], "a student may learn the prompt too"


def test_unknown_columns_are_shown_to_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("galdera,erantzuna\na,b\n")
    preview = preview_source(DatasetSpec(source=str(tmp_path / "a.csv")))
    assert preview.format is None
    assert preview.columns == ["galdera", "erantzuna"]
    assert preview.records == [{"galdera": "a", "erantzuna": "b"}]
    assert "galdera, erantzuna" in str(preview.problem)


def test_bad_rows_among_the_first_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{broken\n{"text": []}\n')
    preview = preview_source(DatasetSpec(source=str(tmp_path / "a.jsonl")))
    assert [row.line for row in preview.skipped] == [2, 3]


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "b.jsonl").write_text('{"question": "a", "answer": 3}\n{"question": {}, "answer": []}\n'.replace("3", "{}"))
    with pytest.raises(EmptyDataset, match="contains no rows"):
        preview_source(DatasetSpec(source=str(tmp_path / "a.jsonl")))
    with pytest.raises(BadRow, match="no row can be used"):
        preview_source(DatasetSpec(source=str(tmp_path / "b.jsonl")))


def test_the_built_in_data_is_shown_without_parsing_the_whole_library(tmp_path: Path) -> None:
    preview = preview_source(DatasetSpec(), RuntimeOptions(cache_dir=tmp_path))
    assert preview.format == "instruction"
    assert len(preview.examples) == 3
    assert not list(tmp_path.iterdir())


def test_a_preview_imports_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    code = (
        "import sys; from finetune.data.preview import preview_source; from finetune.recipe import DatasetSpec;"
        f"preview_source(DatasetSpec(source={str(tmp_path / 'a.jsonl')!r}));"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_reasoning_is_shown_with_the_answer_that_it_belongs_to(tmp_path: Path) -> None:
    answer = '{"role": "assistant", "content": "four", "reasoning_content": "two twos"}'
    (tmp_path / "a.jsonl").write_text(f'{{"messages": [{{"role": "user", "content": "2 + 2"}}, {answer}]}}\n')
    seen = preview_source(DatasetSpec(source=str(tmp_path / "a.jsonl")))
    assert [(piece.text, piece.supervised) for piece in seen.examples[0]] == [("2 + 2\n", False), ("two twos\nfour", True)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "2 + 2?", "cot": "Two twos.", "answer": "4"}, ["Reasoning is learned if the model's chat template accepts it"]),
        ({"messages": [ASKED, {**ANSWER, "reasoning_content": "Two twos."}]}, ["Reasoning is learned if"]),
        ({"messages": [ASKED, {**ANSWER, "tool_calls": [CALL]}, {"role": "tool", "content": "4"}, ANSWER]}, ["Tool calls are learned if"]),
        ({"messages": [ASKED, {**ANSWER, "tool_calls": [CALL], "reasoning_content": "a"}]}, ["Reasoning is", "Tool calls are"]),
        ({"messages": [{"role": "system", "content": "Be short."}, ASKED, ANSWER]}, []),
        ({"question": "2 + 2?", "answer": "<think>Two twos.</think>4"}, []),
    ],
)
def test_what_not_every_model_can_be_taught_is_said_beside_the_example(row: dict[str, Any], said: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    seen = preview_source(DatasetSpec(source=str(tmp_path / "a.jsonl")))
    assert [note[: len(words)] for note, words in zip(seen.notes, said, strict=True)] == said
    shown = "".join(text for _, text in fragments(seen))
    assert all(note in shown for note in seen.notes)
