"""Which files a source means: a file, several, a folder, a glob, a .zip; split names in file names; and what is meant for the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data.files import looks_local
from finetune.data.sources import Rows, read_rows
from finetune.errors import DatasetNotFound
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions


def read(tmp_path: Path, source: str | Path, *, measured: str | None = None, **spec: object) -> Rows:
    """`measured` asks for the rows of that split, as `eval_split` does."""
    runtime = RuntimeOptions(cache_dir=tmp_path / "cache")
    return read_rows(DatasetSpec(source=str(source), **spec), runtime, Recorder(), split=measured)  # type: ignore[arg-type]


def asked(rows: Rows) -> list[str]:
    return [messages[0]["content"] for messages in rows.dataset["messages"]]


def json_lines(*questions: str) -> bytes:
    return "\n".join(json.dumps({"question": question, "answer": "x"}) for question in questions).encode()


def write(folder: Path, *names: str) -> Path:
    """Files of one row each, which asks for its file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json_lines(name))
    return folder


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DatasetNotFound, match=r"There is no file .*trian\.jsonl") as missing:
        read(tmp_path, tmp_path / "trian.jsonl")
    assert missing.value.hint == f"Did you mean {tmp_path / 'train.jsonl'}?"


def test_a_slip_in_a_file_name_is_not_taken_for_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetNotFound, match=r"There is no file data/train\.jsnol") as missing:
        read(tmp_path, "data/train.jsnol")
    assert missing.value.hint == "Did you mean data/train.jsonl?"


@pytest.mark.parametrize("beside", ["wikitext_out", "wikitext2.jsonl", "wikitexts/rows.jsonl"])
def test_a_hub_name_is_not_taken_for_a_slip_in_the_name_of_what_lies_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    (tmp_path / beside).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not looks_local("wikitext")
    assert not looks_local("wikitext-v1.0")
    assert looks_local("wikitext/")


def test_what_a_run_pinned_on_the_hub_is_never_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"letters@{'a' * 40}"
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert not looks_local(name)
    assert looks_local(f"./{name}")
    assert looks_local("letters@main, rows.jsonl") is False


def test_a_name_that_can_be_nothing_says_what_would_be_something(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="neither a file nor the name of a data set"):
        read(tmp_path, "what is this")


def test_files_named_after_splits_are_kept_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", "train-0.jsonl", "train-1.jsonl", "dev.jsonl")
    assert asked(read(tmp_path, folder)) == ["train-0.jsonl", "train-1.jsonl"]
    assert asked(read(tmp_path, folder, split="validation")) == ["dev.jsonl"]
    with pytest.raises(DatasetNotFound, match="no file of the split 'test'") as missing:
        read(tmp_path, folder, split="test")
    assert "dev.jsonl" in str(missing.value.hint)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(DatasetNotFound, match="holds no data files"):
        read(tmp_path, tmp_path / "rows")
