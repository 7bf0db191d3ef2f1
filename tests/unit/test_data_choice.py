"""Which files a source means: a file, several, a folder, a glob, a .zip; split names in file names; and what is meant for the Hub."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from finetune.data.files import looks_local
from finetune.data.reading import Rows, read_rows
from finetune.errors import DatasetError, DatasetNotFound
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
    """Files of one row each, which asks for its file's name; x.zip/a.jsonl is a file in a .zip."""
    for name in names:
        packed, _, member = name.partition(".zip/")
        path = folder / (f"{packed}.zip" if member else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if member:
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(member, json_lines(name))
        else:
            path.write_bytes(json_lines(name))
    return folder


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DatasetNotFound, match=r"There is no file .*trian\.jsonl") as missing:
        read(tmp_path, tmp_path / "trian.jsonl")
    assert missing.value.hint == f"Did you mean {tmp_path / 'train.jsonl'}?"


def test_a_name_that_only_looks_the_same_is_told_and_columns_are_found_by_it(tmp_path: Path) -> None:
    stored, typed = "gro\u0308\u00dfe", "gr\u00f6\u00dfe"
    (tmp_path / f"{stored}.csv").write_text(f"{stored},b\n1,2\n3,4\n", encoding="utf-8")
    with pytest.raises(DatasetNotFound) as missing:
        read(tmp_path, tmp_path / f"{typed}.csv")
    assert str(missing.value.hint).startswith("Its name is stored with other letters that look the same (Unicode NFC or NFD).")
    found = read(tmp_path, tmp_path / f"{stored}.csv", columns={"prompt": typed, "completion": "b"})
    assert asked(found) == ["1", "3"]


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
    with pytest.raises(DatasetNotFound, match="neither a file nor a dataset name"):
        read(tmp_path, "what is this")


def test_files_named_after_splits_are_kept_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", "train-0.jsonl", "train-1.jsonl", "dev.jsonl")
    assert asked(read(tmp_path, folder)) == ["train-0.jsonl", "train-1.jsonl"]
    assert asked(read(tmp_path, folder, split="validation")) == ["dev.jsonl"]
    with pytest.raises(DatasetNotFound, match="no file of the split 'test'") as missing:
        read(tmp_path, folder, split="test")
    assert "dev.jsonl" in str(missing.value.hint)


def test_a_folder_gives_its_data_files_in_order_and_leaves_the_rest(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", "b.jsonl", "a.jsonl", "deep/c.jsonl", "README.md", "dataset_info.json", ".hidden.jsonl")
    assert asked(read(tmp_path, folder)) == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert asked(read(tmp_path, folder, data_files="b*")) == ["b.jsonl"]
    assert asked(read(tmp_path, folder, data_files=["deep/*.jsonl"])) == ["deep/c.jsonl"]
    assert asked(read(tmp_path, folder / "b*.jsonl")) == ["b.jsonl"]
    with pytest.raises(DatasetNotFound, match=r"No file in .* is called x\.csv"):
        read(tmp_path, folder, data_files="x.csv")


def test_built_in_data_have_no_other_split(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="builtin:python-docs has no split 'test'"):
        read(tmp_path, "builtin:python-docs", measured="test")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(DatasetNotFound, match="contains no data files"):
        read(tmp_path, tmp_path / "rows")


# What lies in the folder `rows`, which of it is asked for, what is read, and what is measured on with eval_split=test.
CHOSEN: dict[str, tuple[str, list[str], list[str], list[str] | None]] = {
    "a folder whose own name carries a split": ("train_data", ["test.jsonl", "train.jsonl"], ["train.jsonl"], ["test.jsonl"]),
    "a folder named after another split": ("dev", ["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"], None),
    "folders named after splits": ("rows", ["test/b.jsonl", "train/deep/a.jsonl"], ["train/deep/a.jsonl"], ["test/b.jsonl"]),
    "the names of files before those of folders": (
        "rows",
        ["test/train.jsonl", "train/test.jsonl"],
        ["test/train.jsonl"],
        ["train/test.jsonl"],
    ),
    "a .zip beside other files": ("rows", ["a.jsonl", "b.zip/b.jsonl"], ["a.jsonl", "b.zip/b.jsonl"], None),
    "only .zip files": ("rows", ["a.zip/a.jsonl", "b.zip/b.jsonl"], ["a.zip/a.jsonl", "b.zip/b.jsonl"], None),
    ".zip files named after splits": ("rows", ["test.zip/a.jsonl", "train.zip/a.jsonl"], ["train.zip/a.jsonl"], ["test.zip/a.jsonl"]),
    "splits in a .zip": ("rows", ["a.zip/test/a.jsonl", "a.zip/train/a.jsonl"], ["a.zip/train/a.jsonl"], ["a.zip/test/a.jsonl"]),
    "one .zip named after another split": (
        "rows",
        ["test.zip/a.jsonl", "test.zip/b.jsonl"],
        ["test.zip/a.jsonl", "test.zip/b.jsonl"],
        None,
    ),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_a_folder_is_read_by_the_splits_in_its_files_names(tmp_path: Path, kind: str) -> None:
    name, files, read_for_training, measured = CHOSEN[kind]
    folder = write(tmp_path / name, *files)
    assert asked(read(tmp_path, folder)) == read_for_training
    if measured is None:
        with pytest.raises(DatasetNotFound, match="no file of the split 'test'"):
            read(tmp_path, folder, measured="test")
    else:
        assert asked(read(tmp_path, folder, measured="test")) == measured


def test_a_file_that_is_named_is_read_whatever_the_others_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, "train.jsonl", "more.jsonl", "test.jsonl", "old/b.jsonl", "old/dev.jsonl", "old/train.jsonl"))
    write(tmp_path, "a, b.jsonl")
    assert asked(read(tmp_path, "a, b.jsonl")) == ["a, b.jsonl"]
    both = read(tmp_path, "train.jsonl, more.jsonl")
    assert asked(both) == ["train.jsonl", "more.jsonl"]
    assert both.facts.notes == []
    assert asked(read(tmp_path, ".", data_files=["test.jsonl", "more.jsonl"])) == ["more.jsonl", "test.jsonl"]
    assert asked(read(tmp_path, "more.jsonl, old")) == ["more.jsonl", "old/train.jsonl"]
    assert asked(read(tmp_path, "test.jsonl, train.jsonl", split="test")) == ["test.jsonl"]


def test_many_files_may_be_named_with_commas_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"my_rows_of_{year}.jsonl" for year in range(2000, 2020)]
    monkeypatch.chdir(write(tmp_path, *names))
    assert asked(read(tmp_path, ",".join(names))) == names


def test_a_test_file_that_is_named_is_measured_on_or_said_to_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, "train.jsonl", "test.jsonl"))
    named = "train.jsonl, test.jsonl"
    rows = read(tmp_path, named)
    assert asked(rows) == ["train.jsonl", "test.jsonl"]
    assert rows.facts.notes == ["Trained on as well, because it is named: test.jsonl. To measure on it: --set dataset.eval_split=NAME"]
    kept_apart = read(tmp_path, named, eval_split="test")
    assert asked(kept_apart) == ["train.jsonl"]
    assert kept_apart.facts.notes == []
    assert asked(read(tmp_path, named, eval_split="test", measured="test")) == ["test.jsonl"]
    with pytest.raises(DatasetNotFound, match="no file of the split 'train'"):
        read(tmp_path, "test.jsonl", eval_split="test")


def test_files_of_a_folder_that_are_left_out_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "rows", "dev.jsonl", "test.jsonl", "train.jsonl", "README.md", "notes.txt", "old.odt")
    assert read(tmp_path, folder).facts.notes == [
        "Not read in rows: notes.txt, old.odt.",
        "Not read, because the split is train: dev.jsonl, test.jsonl. To measure on test: --set dataset.eval_split=test",
    ]
    assert read(tmp_path, folder, eval_split="test").facts.notes[1] == "Not read, because the split is train: dev.jsonl."
    (folder / "dev.jsonl").unlink()
    assert len(read(tmp_path, folder, eval_split="test").facts.notes) == 1


def test_one_file_has_no_files_to_choose_from(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.jsonl is a single file"):
        read(tmp_path, write(tmp_path, "a.jsonl") / "a.jsonl", data_files="b.jsonl")


@pytest.mark.parametrize("source", ["~nobodyhere/rows.jsonl", "~nobodyhere/a.jsonl, b.jsonl", "r" * 300, f"{'r' * 300}, b.jsonl"])
def test_a_path_that_cannot_be_looked_at_is_refused_in_a_sentence(tmp_path: Path, source: str) -> None:
    with pytest.raises(DatasetNotFound) as caught:
        read(tmp_path, source)
    assert source.split(",")[0] in caught.value.message
    assert caught.value.hint
