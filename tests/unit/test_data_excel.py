"""Excel workbooks: the first sheet that has rows, cells as people typed them, and a sentence for what is left out or cannot be read."""

from __future__ import annotations

import datetime
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from read_files import workbook

from finetune.data.readers import excel
from finetune.data.reading import open_source
from finetune.errors import BadRow, DatasetError, EmptyDataset
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

HEADER = ("question", "answer")


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    origin = open_source(DatasetSpec(source=str(path)), RuntimeOptions(), Recorder())
    return [record.values for record in origin.records()], origin.notes  # type: ignore[union-attr]


def test_cells_are_what_people_typed(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 5, 31)
    rows = [
        HEADER,
        ("How many?", 3.0),
        ("When?", day),
        ("Was it?", True),
        ("Half?", 0.5),
        ("Lines?", "a\nb"),
        (None, None),
        ("Nothing?", None),
    ]
    found, _ = read(workbook(tmp_path / "rows.xlsx", Data=rows))
    assert [row["answer"] for row in found] == [3, "2024-05-31", True, 0.5, "a\nb", ""]
    assert found[0] == {"question": "How many?", "answer": 3}


def test_the_first_sheet_with_rows_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    found, notes = read(workbook(tmp_path / "rows.xlsx", Cover=[], Data=[HEADER, ("a", "b")], Notes=[("x",)], Old=[HEADER[::-1]]))
    assert found == [{"question": "a", "answer": "b"}]
    assert notes == ["rows.xlsx: the sheet Data is read, and not Notes, Old."]


def test_a_cell_that_was_merged_over_rows_is_in_each_of_them(tmp_path: Path) -> None:
    rows = [
        ("FAQ", None, None),
        ("topic", *HEADER),
        ("Post", "Where?", "Here."),
        (None, "When?", "Now."),
        (None, None, "Soon."),
        ("Bill",),
        ("Who?", None, "Ann."),
    ]
    openpyxl = pytest.importorskip("openpyxl")
    path = workbook(tmp_path / "rows.xlsx", Data=rows)
    book = openpyxl.load_workbook(path)
    for cells in ("A1:C1", "A3:A5", "B4:B5", "A6:C6"):
        book.active.merge_cells(cells)
    book.save(path)
    found, notes = read(path)
    assert [tuple(row.values()) for row in found] == [
        ("Post", "Where?", "Here."),
        ("Post", "When?", "Now."),
        ("Post", "When?", "Soon."),
        ("Who?", "", "Ann."),
    ]
    assert notes == [
        "rows.xlsx: `FAQ` above the names of the columns is not read.",
        "rows.xlsx: lines with nothing but a cell merged over columns, such as `Bill`, are taken for headings, and not read.",
    ]


def test_sheets_with_the_same_columns_are_read_together(tmp_path: Path) -> None:
    path = workbook(tmp_path / "rows.xlsx", Post=[HEADER, ("a", "b")], Bills=[("Bills 2024",), HEADER, ("c", "d")], Notes=[("x",)])
    records = list(open_source(DatasetSpec(source=str(path)), RuntimeOptions(), Recorder()).records())
    post, bills = "rows.xlsx, sheet Post", "rows.xlsx, sheet Bills"
    assert [(record.file, record.line) for record in records] == [(post, 2), (bills, 3)]
    found, notes = read(path)
    assert [row["answer"] for row in found] == ["b", "d"]
    assert notes == [
        "rows.xlsx: the sheets Post, Bills are read, and not Notes.",
        "rows.xlsx: `Bills 2024` above the names of the columns is not read.",
    ]


@pytest.mark.parametrize(
    ("read_one", "other"), [("Train", "Test"), ("FAQ", "FAQ (2)"), ("FAQ", "FAQ old"), ("Posten", "Copy of Posten"), ("Q1 train", "Q1 dev")]
)
def test_a_sheet_of_another_split_or_a_copy_is_not_read_with_the_rows(tmp_path: Path, read_one: str, other: str) -> None:
    sheets = {read_one: [HEADER, ("a", "b")], other: [HEADER, ("c", "d")]}
    said = f"parts.xlsx: the sheet {read_one} is read, and not {other}."
    assert read(workbook(tmp_path / "parts.xlsx", **sheets)) == ([{"question": "a", "answer": "b"}], [said])


def test_of_sheets_of_splits_that_of_the_wanted_one_is_read_wherever_it_is(tmp_path: Path) -> None:
    path = workbook(tmp_path / "parts.xlsx", Test=[HEADER, ("c", "d")], Train=[HEADER, ("a", "b")])
    assert read(path) == ([{"question": "a", "answer": "b"}], ["parts.xlsx: the sheet Train is read, and not Test."])


def test_a_line_of_more_cells_than_names_is_skipped_with_its_number(tmp_path: Path) -> None:
    path = workbook(tmp_path / "rows.xlsx", Data=[HEADER, ("a", "b"), ("c", "d", "e"), ("f",)])
    records = list(open_source(DatasetSpec(source=str(path)), RuntimeOptions(), Recorder()).records())
    assert [(record.line, getattr(record, "reason", "")) for record in records] == [(2, ""), (3, "3 cells, but the header has 2"), (4, "")]


@pytest.mark.parametrize(("content", "kind"), [(b"no workbook", BadRow), (b"PK\x03\x04 half of one", BadRow)])
def test_what_is_no_workbook_is_said(content: bytes, kind: type[Exception], tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    (tmp_path / "rows.xlsx").write_bytes(content)
    with pytest.raises(kind, match=r"rows\.xlsx"):
        read(tmp_path / "rows.xlsx")


def test_a_workbook_without_rows_is_empty(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset, match=r"rows\.xlsx is empty"):
        read(workbook(tmp_path / "rows.xlsx", Data=[]))


def test_a_workbook_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "rows.xlsx", Data=[HEADER, *[("word " * 50, "answer")] * 300])
    monkeypatch.setattr(excel, "UNPACKED", 2 * path.stat().st_size)
    with zipfile.ZipFile(path) as parts:
        assert sum(part.file_size for part in parts.infolist()) > 2 * path.stat().st_size
    with pytest.raises(BadRow, match="unpacks to more than"):
        read(path)


def test_a_workbook_that_claims_more_cells_than_it_has_is_read_at_once(tmp_path: Path) -> None:
    path, claims = workbook(tmp_path / "rows.xlsx", Data=[HEADER, ("a", "b")]), tmp_path / "claims.xlsx"
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(claims, "w") as after:
        for part in before.namelist():
            after.writestr(part, before.read(part).replace(b'ref="A1:B2"', b'ref="A1:XFD1048576"'))
    with zipfile.ZipFile(claims) as parts:
        assert b"XFD1048576" in parts.read("xl/worksheets/sheet1.xml")
    assert read(claims) == ([{"question": "a", "answer": "b"}], [])


def test_without_openpyxl_two_ways_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DatasetError, match="needs the package openpyxl") as refused:
        read(tmp_path / "rows.xlsx")
    assert "pip install openpyxl" in str(refused.value.hint)
    assert "Save as, CSV" in str(refused.value.hint)


def test_older_formats_say_what_to_save_them_as(tmp_path: Path) -> None:
    for name, words in (("rows.xls", "save it as .xlsx or CSV"), ("rows.ods", "LibreOffice"), ("rows.pdf", ".txt file")):
        (tmp_path / name).write_bytes(b"something")
        with pytest.raises(DatasetError) as refused:
            read(tmp_path / name)
        assert words in str(refused.value.hint)


@pytest.mark.parametrize(
    ("part", "damage", "said"),
    [
        ("xl/worksheets/sheet1.xml", "<row>" + "<c/>" * 110_000 + "</row>", "has a row with too many cells"),
        ("xl/worksheets/sheet1.xml", "<row/>" * 1_000_000, "unpacks to more than 5 MB"),
    ],
)
def test_small_workbooks_that_become_large_are_refused(tmp_path: Path, part: str, damage: str, said: str) -> None:
    path = workbook(tmp_path / "whole.xlsx", First=[HEADER, ("1 + 1?", "2")])
    large = tmp_path / "large.xlsx"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as made:
        for name in whole.namelist():
            content = whole.read(name)
            made.writestr(name, content.replace(b"</sheetData>", damage.encode() + b"</sheetData>") if name == part else content)
    with pytest.raises(BadRow, match=said):
        read(large)
