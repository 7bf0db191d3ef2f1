"""Files as programs write them, made in memory.

zipped({"a.jsonl": lines(records([("question", "answer")]))})  ->  bytes
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def records(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in pairs]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(pairs: list[tuple[str, str]], **style: Any) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, **style).writerows([("question", "answer"), *pairs])
    return text.getvalue()


def parquet(rows: list[dict[str, Any]] | dict[str, Any]) -> bytes:
    """From rows, or from columns."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows) if isinstance(rows, list) else pa.table(rows), sink, row_group_size=5)
    return sink.getvalue()


def arrow(rows: list[dict[str, str]], new: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    content = pa.Table.from_pylist(rows)
    with new(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=4)
    return sink.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def saved_by_datasets(splits: dict[str, list[dict[str, str]]], folder: Path) -> dict[str, bytes]:
    from datasets import Dataset, DatasetDict

    DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(folder)
    return {f"saved/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def chat(*said: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    return [{"role": "system", "content": system}, *turns] if system else turns
