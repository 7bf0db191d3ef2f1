"""Whatever lies in a file: every record is among the rows, exactly as it was, or in the skipped list with its line; nothing crashes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from finetune.data.endings import ARCHIVES, KINDS, PACKED
from finetune.data.reading import Rows, read_rows
from finetune.errors import DatasetError
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

pytestmark = pytest.mark.slow

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ANSWER = TEXT.filter(lambda text: bool(text.strip()))
WORDS = (
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40).map(lambda text: " ".join(text.split())).filter(bool)
)
PAIRS = st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=8)
STARTS = [
    b"",
    b"{",
    b"[",
    b'[{"',
    b'{"question": "',
    b'{"messages": [',
    b"question,answer\n",
    b'question,answer\n"',
    b"PAR1",
    b"ARROW1\0\0",
]
STARTS += [b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"PK\x03\x04", b"(\xb5/\xfd", b"BZh9"]


@contextmanager
def rows_of(name: str, content: bytes, **spec: Any) -> Iterator[Rows]:
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / name).write_bytes(content)
        given = DatasetSpec(**{"source": str(folder / name), "bad_rows": 1.0, **spec})
        yield read_rows(given, RuntimeOptions(cache_dir=folder / "cache"), Recorder())
    finally:
        shutil.rmtree(folder)


def contents(rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(turn["content"] for turn in messages) for messages in rows.dataset["messages"]]


@settings(QUIET, max_examples=600)
@given(
    suffix=st.sampled_from([*KINDS, *ARCHIVES, *(f".jsonl{packing}" for packing in PACKED), *(f".parquet{each}" for each in PACKED)]),
    start=st.sampled_from(STARTS),
    rest=st.one_of(st.binary(max_size=200), st.text(st.sampled_from('{}[]",:\\n\n\r\t ;|ab01\0\ufeff'), max_size=200).map(str.encode)),
)
@example(suffix=".json", start=b"[", rest=b'"a", 1, "b"]')
@example(suffix=".csv", start=b"", rest=b"sep=;\n")
def test_no_bytes_make_it_crash(suffix: str, start: bytes, rest: bytes) -> None:
    refused: DatasetError | None = None
    try:
        with rows_of(f"a{suffix}", start + rest) as rows:
            assert rows.facts.usable + rows.facts.skipped + rows.facts.blank == rows.facts.read
            assert len(rows.dataset) == rows.facts.usable > 0
    except DatasetError as error:
        refused = error
    assert refused is None or ("\n" not in refused.message and refused.hint)


BROKEN = [
    "{",
    "nothing",
    "[1, 2]",
    '"text"',
    "17",
    '{"question": "q"}',
    '{"question": "q", "answer": null}',
    '{"question": [], "answer": "a"}',
]


@QUIET
@given(lines=st.lists(st.one_of(st.tuples(TEXT, ANSWER), st.sampled_from(BROKEN)), min_size=1, max_size=20))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_is_a_row_or_listed_with_its_number(lines: list[Any], end: str) -> None:
    lines = [("first", "row"), *lines]
    written = [json.dumps(dict(zip(("question", "answer"), line, strict=True))) if isinstance(line, tuple) else line for line in lines]
    with rows_of("a.jsonl", end.join(written).encode()) as rows:
        assert contents(rows) == [line for line in lines if isinstance(line, tuple)]
        assert [row.line for row in rows.facts.skipped_rows] == [
            number for number, line in enumerate(lines, 1) if not isinstance(line, tuple)
        ]


@QUIET
@given(pairs=PAIRS, delimiter=st.sampled_from(",;\t|"), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), mark=st.booleans())
def test_a_table_is_read_as_it_was_written(pairs: list[tuple[str, str]], delimiter: str, quoting: int, mark: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows([("question", "answer"), *pairs])  # type: ignore[arg-type]
    controls = sum(letter < " " and letter not in "\t\n\r" for letter in text.getvalue())
    assume(controls < 0.05 * len(text.getvalue()))  # with more of them it is taken for a binary file
    with rows_of("a.csv", text.getvalue().encode("utf-8-sig" if mark else "utf-8")) as rows:
        assert contents(rows) == pairs


@QUIET
@given(pairs=PAIRS, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), indent=st.sampled_from([None, 2]))
def test_a_list_is_read_as_it_was_written(pairs: list[tuple[str, str]], encoding: str, indent: int | None) -> None:
    written = json.dumps([{"question": asked, "answer": told} for asked, told in pairs], ensure_ascii=False, indent=indent)
    with rows_of("a.json", written.encode(encoding)) as rows:
        assert contents(rows) == pairs


def test_a_list_far_longer_than_what_is_held_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.readers.json_document.CHUNK", 7)
    pairs = [(f"question {number}", "answer " * (number % 13 + 1)) for number in range(300)]
    written = json.dumps([{"question": asked, "answer": told} for asked, told in pairs], indent=1)
    with rows_of("a.json", written.encode()) as rows:
        assert contents(rows) == pairs
        assert rows.dataset["line"][:] == [4 * number + 2 for number in range(300)]


@pytest.mark.parametrize("blanks", ["", "\n" * 30, " \n \n"])
def test_lines_far_longer_than_what_is_held_of_them_are_counted_from_the_first(blanks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.readers.json_document.CHUNK", 7)
    pairs = [(f"question {number}", "answer\u2028 " * (number % 13 + 1)) for number in range(300)]
    written = "\n".join(json.dumps({"question": asked, "answer": told}, ensure_ascii=False) for asked, told in pairs)
    for name in ("a.jsonl", "a.json"):
        with rows_of(name, (blanks + written).encode()) as rows:
            assert contents(rows) == pairs
            assert rows.dataset["line"][:] == [blanks.count("\n") + number + 1 for number in range(300)]


@QUIET
@given(documents=st.lists(WORDS, min_size=1, max_size=30), gap=st.sampled_from([1, 2, 3]))
@pytest.mark.parametrize("text_as", ["auto", "line", "document"])
def test_text_keeps_every_line_that_is_not_blank(documents: list[str], gap: int, text_as: str) -> None:
    written = ("\n" * gap).join(documents)
    with rows_of("a.txt", written.encode(), text_as=text_as) as rows:
        texts = [text for (text,) in contents(rows)]
    assert [line for text in texts for line in text.split("\n") if line.strip()] == documents
    assert text_as != "line" or texts == documents
    assert text_as != "document" or texts == [written]
