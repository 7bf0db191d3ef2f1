"""Files as programs write them, made in memory: the ingredients of the corpus in test_data_corpus.py.

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
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict


def plain(pairs: list[tuple[str, str]]) -> list[str]:
    return [f"{question}\n{answer}</s>" for question, answer in pairs]


def records(pairs: list[tuple[str, str]], question: str = "question", answer: str = "answer") -> list[dict[str, str]]:
    return [{question: asked, answer: answered} for asked, answered in pairs]


def lines(rows: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode("utf-8", "surrogatepass")


def table(pairs: list[tuple[str, str]], **style: Any) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, **style).writerows([("question", "answer"), *pairs])
    return text.getvalue()


def parquet(columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, row_group_size=5)
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


def locked(archive: bytes) -> bytes:
    """The flag of encryption set in both headers of the first member."""
    changed = bytearray(archive)
    changed[6] |= 1
    changed[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def tarred(members: dict[str, bytes], mode: Literal["w", "w:gz"] = "w:gz") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def saved_by_datasets(splits: dict[str, list[dict[str, str]]], folder: Path) -> dict[str, bytes]:
    DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(folder)
    return {f"saved/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def chat(*said: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    return [{"role": "system", "content": system}, *turns] if system else turns
