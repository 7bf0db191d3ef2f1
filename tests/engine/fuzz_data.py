"""Data files as the fuzzing reads them: small valid ones of each kind, and a reader that previews and then reads all.

kind = data("csv", Path("workplace"))
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from odd_files import tarred

from finetune.events import Recorder
from finetune.runtime import RuntimeOptions

DATA = {
    "json": (".json", "json"),
    "jsonl": (".jsonl", "text"),
    "csv": (".csv", "text"),
    "text": (".md", "text"),
    "packed": (".jsonl.gz", "bytes"),
    "zip": (".zip", "bytes"),
    "tar": (".tar", "bytes"),
    "arrow": (".arrow", "bytes"),
    "parquet": (".parquet", "bytes"),
    "xlsx": (".xlsx", "bytes"),
}


@dataclass
class Kind:
    """`files` are the valid contents by name, each with the way in which it is damaged; `read` takes the name and what became of it."""

    files: dict[str, tuple[bytes, str]]
    read: Callable[[str, bytes], None]


def data(name: str, workplace: Path) -> Kind:
    from finetune.data.preview import preview_source
    from finetune.data.reading import read_rows
    from finetune.errors import FinetuneError
    from finetune.recipe import DatasetSpec

    ending, damage = DATA[name]
    path = workplace / f"rows{ending}"
    runtime = RuntimeOptions(cache_dir=workplace / "cache")

    def read(_: str, content: bytes) -> None:
        path.write_bytes(content)
        spec = DatasetSpec(source=str(path), bad_rows=1.0)
        with suppress(FinetuneError):  # reading all of it must end in a sentence of its own
            preview_source(spec, runtime, Recorder())
        try:
            read_rows(spec, runtime, Recorder())
        finally:
            shutil.rmtree(runtime.cache_dir, ignore_errors=True)

    return Kind({path.name: (_rows(name), damage)}, read)


def _rows(name: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    asked = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}, é.", "note": None if n % 3 else "seen"} for n in range(12)]
    lines = "".join(json.dumps(row) + "\n" for row in asked).encode()
    chat = [{"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]} for row in asked]
    sink = io.BytesIO()
    match name:
        case "json":
            return json.dumps({"train": chat[:4], "test": chat[4:6]}).encode()
        case "jsonl":
            return lines
        case "csv":
            return ("question,answer\n" + "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in asked)).encode()
        case "text":
            return "".join(f"# Part {n}\n\nSome text of part {n}, é.\n\n" for n in range(12)).encode()
        case "packed":
            return gzip.compress(lines, mtime=0)
        case "zip":
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo("train.jsonl"), lines)
            return sink.getvalue()
        case "tar":
            return tarred({"train.jsonl": lines}, "w")
        case "xlsx":
            import openpyxl

            book = openpyxl.Workbook()
            for cells in (list(asked[0]), *(list(row.values()) for row in asked)):
                book.active.append(cells)
            book.save(sink)
            return sink.getvalue()
        case "arrow":
            table = pa.table(
                {"messages": [row["messages"] for row in chat], "n": pa.array([1.5] * 12), "d": pa.array(["a"] * 12).dictionary_encode()}
            )
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            return sink.getvalue()
    pq.write_table(pa.Table.from_pylist(asked), sink)
    return sink.getvalue()
