"""Small files that stand for a lot of memory: read within bounds and with the right texts, or refused in one sentence."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.preview import preview_source
from finetune.data.reading import read_rows
from finetune.data.rows import as_many, weight_of
from finetune.errors import BadRow, DatasetError
from finetune.events import Recorder
from finetune.foreign import HELD
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

MB = 1_000_000


@pytest.fixture
def runtime(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(cache_dir=tmp_path / "cache")


def texts_of(path: Path, runtime: RuntimeOptions, **spec: Any) -> list[str]:
    found = read_rows(DatasetSpec(source=str(path), **spec), runtime, Recorder())
    return [row["messages"][-1]["content"] for row in found.dataset]


@contextmanager
def within(megabytes: int) -> Iterator[None]:
    """Of Python's and Arrow's memory together."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] + pool.max_memory() < megabytes * MB
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


def test_as_many_rows_are_held_as_fit() -> None:
    rows = iter(["x" * (HELD // 3)] * 10)
    assert [len(as_many(rows, 100, len)) for _ in range(4)] == [4, 4, 2, 0]
    assert len(as_many(iter(range(10)), 3, lambda _: 1)) == 3


def test_the_weight_of_a_record_counts_texts_and_objects_however_deep() -> None:
    deep: Any = "abc"
    for _ in range(5000):
        deep = [deep]
    assert weight_of(deep) == 5000 * 64 + 3
    assert weight_of({"a": "x" * 1000, "b": [1, {"c": b"yy"}]}) == 1000 + 2 + 4 * 64


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small part of the limits, so that little data reaches them."""
    for module in ("data.rows", "data.readers.tables"):
        monkeypatch.setattr(f"finetune.{module}.HELD", HELD // 500)


@pytest.mark.parametrize("nested", [False, True], ids=["cells", "turns"])
@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_a_long_text_that_many_rows_share_is_held_a_few_times_only(
    tmp_path: Path, runtime: RuntimeOptions, small: None, ending: str, nested: bool
) -> None:
    """60 rows of 60 kB each from a file of not much more."""
    path, long = tmp_path / f"rows{ending}", "long " * 12_000
    indices = pa.array([0, 1] * 60, pa.int32())
    column: Any = pa.DictionaryArray.from_arrays(indices, pa.array([long, "short"]))
    if nested:
        turns = pa.StructArray.from_arrays([pa.array(["assistant"] * 120), column], ["role", "content"])
        column = pa.ListArray.from_arrays(pa.array(range(121), pa.int32()), turns)
    table = pa.table({"messages" if nested else "text": column})
    if ending == ".parquet":
        pq.write_table(table, path, dictionary_pagesize_limit=10 * MB)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    assert path.stat().st_size < 80_000
    with within(5):
        read_rows(DatasetSpec(source=str(path)), runtime, Recorder())
    found = texts_of(path, runtime)
    assert (len(found), found[:3]) == (120, [long, "short", long])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_parquet_gives_the_same_texts_whatever_they_are_stored_as(tmp_path: Path, runtime: RuntimeOptions, kind: Any) -> None:
    path, said = tmp_path / "rows.parquet", ["a", "é", None, "a", "b" * 2000]
    pq.write_table(pa.table({"text": pa.array(said, kind), "n": [1, 2, 3, 4, 5]}), path, row_group_size=2)
    assert texts_of(path, runtime, bad_rows=1.0) == ["a", "é", "a", "b" * 2000]


def test_a_page_of_parquet_that_unpacks_to_more_than_is_held_is_refused(
    tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.data.readers.tables.UNPACKED", MB)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["x" * 2 * MB, "y"]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 5000
    with pytest.raises(DatasetError, match=r"rows\.parquet unpacks to more than 1 MB"):
        read_rows(DatasetSpec(source=str(path)), runtime, Recorder())
    pq.write_table(pa.table({"text": ["x" * 2 * MB, "y"]}), path, compression="none", use_dictionary=False)
    assert [len(text) for text in texts_of(path, runtime)] == [2 * MB, 1]


def test_packed_lines_that_are_all_long_are_held_a_few_at_a_time(tmp_path: Path, runtime: RuntimeOptions, small: None) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps({"text": "x" * 60_000}) + "\n").encode() * 200, compresslevel=1))
    with within(9):
        assert len(read_rows(DatasetSpec(source=str(path)), runtime, Recorder())) == 200
    with within(9):
        assert preview_source(DatasetSpec(source=str(path)), runtime).columns == ["text"]


BRACKETS = "[],"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", '{"text": [' + BRACKETS * 500 + "[]]}"),
        ("rows.json", '[{"text": "a"}, {"text": [' + BRACKETS * 500 + "[]]}]"),
        ("rows.jsonl", '{"text": [' + BRACKETS * 500 + "[]]}"),
        ("rows.json", "[" + ", ".join(['{"role": "user", "content": "a"}'] * 500) + "]"),
    ],
    ids=["document", "item", "line", "conversation"],
)
def test_json_of_many_times_its_size_is_refused(
    tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    for reader in ("json_lines", "json_document"):
        monkeypatch.setattr(f"finetune.data.readers.{reader}.VALUES", 800)
    monkeypatch.setattr("finetune.data.readers.json_document.TURNS", 400)
    monkeypatch.setattr("finetune.data.readers.json_document.CHUNK", 200)
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadRow, match=r"rows\.jsonl?.*more than [\d,]+ (values|turns)"):
        read_rows(DatasetSpec(source=str(path)), runtime, Recorder())


def test_many_small_records_and_long_texts_are_no_flood(tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in ("json_lines", "json_document"):
        monkeypatch.setattr(f"finetune.data.readers.{reader}.VALUES", 800)
    monkeypatch.setattr("finetune.data.readers.json_document.CHUNK", 200)
    path, rows = tmp_path / "rows.json", [{"text": f"{number}, {number}"} for number in range(2000)]
    path.write_text(json.dumps([*rows, {"text": "no commas here " * 5000}]))
    assert len(texts_of(path, runtime)) == 2001


def test_a_text_that_arrow_cannot_hold_is_a_row_that_is_skipped(
    tmp_path: Path, runtime: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.data.reading.LONGEST", 100)
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b" * 101, "c"]}), sink)
    (tmp_path / "rows.parquet").write_bytes(sink.getvalue())
    found = read_rows(DatasetSpec(source=str(tmp_path / "rows.parquet"), bad_rows=0.5), runtime, Recorder())
    assert (len(found), [row.reason for row in found.facts.skipped_rows]) == (2, ["text of more than 100 characters"])


def test_no_damage_to_the_footer_of_a_parquet_file_ends_the_process(tmp_path: Path) -> None:
    """In a process of its own, which would die: pyarrow ends it over some facts about columns, were they looked at."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", "b", None]}), path, store_schema=False)
    code = (
        "import sys; from contextlib import suppress; from pathlib import Path\n"
        "from finetune.data.files import DataFile; from finetune.data.readers.tables import read; from finetune.recipe import DatasetSpec\n"
        "path = Path(sys.argv[1]); whole = path.read_bytes()\n"
        "start = len(whole) - 8 - int.from_bytes(whole[-8:-4], 'little')\n"
        "for at in range(start, len(whole) - 8):\n"
        "    for bit in (1, 2, 4):\n"
        "        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])\n"
        "        with suppress(Exception):\n"
        "            list(read(DataFile(path), DatasetSpec(), None))\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "alive\n", done.stderr[-300:]


@pytest.mark.parametrize("writer", ["new_stream", "new_file"])
@pytest.mark.parametrize("kind", ["text", "dictionary"])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_arrow_is_read_up_to_a_limit(tmp_path: Path, runtime: RuntimeOptions, writer: str, kind: str, compression: str) -> None:
    for length, name in ((9, "small"), (200_000, "large")):
        texts = pa.array(["a" * length, "b" * length])
        column = texts.dictionary_encode() if kind == "dictionary" else texts
        batch = pa.record_batch({"question": column, "answer": pa.array(["x", "y"])})
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with getattr(pa.ipc, writer)(tmp_path / f"{name}.arrow", batch.schema, options=options) as made:
            made.write_batch(batch)
    assert len(read_rows(DatasetSpec(source=str(tmp_path / "small.arrow")), runtime, Recorder())) == 2
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finetune.data.readers.tables.UNPACKED", 300_000)
        patched.setattr("finetune.data.readers.tables.PACKED_ROWS", 20)
        with pytest.raises(BadRow, match=r"large\.arrow unpacks to more than"):
            read_rows(DatasetSpec(source=str(tmp_path / "large.arrow")), runtime, Recorder())


def test_an_arrow_file_that_names_other_parts_than_it_has_is_refused(tmp_path: Path, runtime: RuntimeOptions) -> None:
    batch, path = pa.record_batch({"question": ["a", "b"], "answer": ["x", "y"]}), tmp_path / "rows.arrow"
    with pa.ipc.new_file(path, batch.schema) as made:
        made.write_batch(batch)
        made.write_batch(batch)
    assert len(read_rows(DatasetSpec(source=str(path)), runtime, Recorder())) == 4
    content = path.read_bytes()
    second = content.rindex(b"\xff\xff\xff\xff", 0, content.rindex(b"\xff\xff\xff\xff"))
    path.write_bytes(content[:second] + b"\xff\xff\xff\xff\0\0\0\0" + content[second + 8 :])  # an early end of the stream
    with pytest.raises(BadRow, match=r"rows\.arrow has 1 of its 2 parts"):
        read_rows(DatasetSpec(source=str(path)), runtime, Recorder())
