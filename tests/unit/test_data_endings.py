"""One table says which files are data: whatever it holds is read, offered while a name is typed, and proposed; nothing else is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import unicodedata
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest
from odd_files import arrow, parquet, tarred, zipped
from test_data_word import document, text

from finetune.data.endings import ARCHIVES, KINDS, PACKED, can_be_read
from finetune.data.files import looks_local
from finetune.data.reading import read_rows
from finetune.errors import UnknownFormat
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.wizard.asking import suggest
from finetune.wizard.step2_dataset import _files_here

RECORDS = [{"question": f"What is {number}?", "answer": str(number)} for number in range(20)]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def workbook() -> bytes:
    """Empty where openpyxl is not installed; what needs it is skipped there."""
    if find_spec("openpyxl") is None:
        return b""
    import openpyxl

    book, sink = openpyxl.Workbook(), io.BytesIO()
    for row in [("question", "answer"), *(tuple(row.values()) for row in RECORDS)]:
        book.active.append(row)
    book.save(sink)
    return sink.getvalue()


def cells(delimiter: str) -> bytes:
    return "\n".join(delimiter.join(row) for row in [("question", "answer"), *(tuple(row.values()) for row in RECORDS)]).encode()


LINES = "\n".join(map(json.dumps, RECORDS)).encode()
CONTENT = {
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".json": json.dumps(RECORDS).encode(),
    ".csv": cells(","),
    ".tsv": cells("\t"),
    ".xlsx": workbook(),
    ".parquet": parquet(RECORDS),
    ".arrow": arrow(RECORDS, pa.ipc.new_stream),
    ".txt": b"\n\n".join(b"A paragraph of some words." for _ in range(80)),
    ".md": b"\n\n".join(b"A paragraph of *some* words." for _ in range(80)),
    ".docx": document(*(text("A paragraph of some words.") for _ in range(80))),
}


def archived(ending: str) -> bytes:
    if ending == ".zip":
        return zipped({"rows.jsonl": LINES})
    return tarred({"./rows.jsonl": LINES}, "w:" + ending.replace(".tgz", ".tar.gz").removeprefix(".tar").removeprefix("."))


FILES = {f"{ending}{packing}": PACKERS[packing](content) for ending, content in CONTENT.items() for packing in PACKERS}
FILES |= {ending: archived(ending) for ending in ARCHIVES}


def test_every_kind_and_packing_of_the_table_is_tried_here_and_has_a_reader() -> None:
    assert CONTENT.keys() == KINDS.keys()
    assert PACKERS.keys() == {"", *PACKED}
    for kind in KINDS.values():
        assert find_spec(f"finetune.data.readers.{kind.reader}")


@pytest.mark.parametrize("ending", FILES)
def test_what_the_table_names_is_read_offered_and_taken_for_a_file(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ending.startswith(".xlsx"):
        pytest.importorskip("openpyxl")
    monkeypatch.chdir(tmp_path)
    Path(f"rows{ending}").write_bytes(FILES[ending])
    rows = read_rows(DatasetSpec(source=f"rows{ending}"), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    assert len(rows) >= 20
    assert suggest.paths("ro") == [f"rows{ending}"]
    assert looks_local(f"not-there{ending}")


@pytest.mark.parametrize("name", ["rows.odt", "rows.xls", "rows", "rows.gz", "rows.odt.gz", "rows.jsonl.7z", "jsonl"])
def test_what_it_does_not_name_is_neither(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(LINES)
    assert not can_be_read(name)
    assert suggest.paths(name[:2]) == []
    with pytest.raises(UnknownFormat, match="not a supported data file") as refused:
        read_rows(DatasetSpec(source=f"./{name}"), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    assert all(ending in str(refused.value.hint) for ending in (*KINDS, *PACKED, *ARCHIVES))


def test_records_that_lie_in_the_folder_are_proposed_settings_and_prose_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "notes.txt", "package.json", "b.ndjson", "c.arrow", "a.csv.gz"):
        Path(name).touch()
    assert _files_here() == ["a.csv.gz", "b.ndjson", "c.arrow"]


def test_a_file_is_suggested_however_its_letters_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = unicodedata.normalize("NFD", "Größen.csv")
    (tmp_path / name).write_text("question,answer\na,b\n")
    assert suggest.paths("grö") == [name]
