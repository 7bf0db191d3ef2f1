"""Reading files in tests.

rows = read(workbook(tmp_path / "faq.xlsx", Data=[("question", "answer"), ("1 + 1?", "2")]))
learned(rows)        # [("1 + 1?", "2")]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.data.reading import Rows, read_rows
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions


def read(path: Path, **settings: Any) -> Rows:
    spec = DatasetSpec(source=str(path), samples=None, **settings)
    return read_rows(spec, RuntimeOptions(cache_dir=path.parent / "cache"), Recorder())


def learned(rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(turn["content"] for turn in row["messages"]) for row in rows.dataset]


def workbook(path: Path, hidden: tuple[str, ...] = (), **sheets: list[tuple[Any, ...]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
        sheet.sheet_state = "hidden" if name in hidden else "visible"
    book.save(path)
    return path
