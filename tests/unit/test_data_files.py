"""Files as people really have them: each is read exactly, or refused with one sentence that names it."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from odd_files import arrow, chat, parquet, records, table, tarred, zipped

from finetune.data.reading import Rows, read_rows
from finetune.errors import BadRow, DatasetError, EmptyDataset, HardwareError, UnknownFormat
from finetune.events import Recorder
from finetune.recipe import ColumnsSpec, DatasetSpec
from finetune.runtime import RuntimeOptions

TRICKY = [
    'He said "two", then\nleft; tab\there, comma, bar | end',
    "None",
    "NA",
    "null",
    "nan",
    "007",
    "café – naïve €5 “quoted”",
    "  spaces around  ",
    "line\r\nbreaks\rof all kinds",
]
WIDE = ["👩‍👩‍👧 emoji 🎉", "مرحبا بالعالم", "שלום", "漢字かな", "combining é ñ", "zero\u200bwidth", "NUL \0 inside", "<b>&amp;</b>"]
ROWS = [(f"{number}: {text}", text) for number, text in enumerate((TRICKY + WIDE) * 2)]
WESTERN = [(f"{number}: {text}", text) for number, text in enumerate(TRICKY * 3)]
ONE_LINE = [tuple(" ".join(cell.split()) for cell in row) for row in ROWS]
RECORDS = records(ROWS)


def json_lines(rows: list[tuple[str, str]], end: str = "\n") -> str:
    return end.join(json.dumps({"question": question, "answer": answer}, ensure_ascii=False) for question, answer in rows)


GOOD: dict[str, tuple[str, bytes, Sequence[tuple[str, ...]]]] = {
    "JSON lines": ("a.jsonl", json_lines(ROWS).encode(), ROWS),
    "JSON lines called ndjson": ("a.ndjson", json_lines(ROWS).encode(), ROWS),
    "JSON lines with \\u escapes": ("a.jsonl", "\n".join(json.dumps(row) for row in RECORDS).encode(), ROWS),
    "JSON lines with CRLF and a last line end": ("a.jsonl", (json_lines(ROWS, "\r\n") + "\r\n").encode(), ROWS),
    "JSON lines with blank lines": ("a.jsonl", json_lines(ROWS, "\n\n").encode(), ROWS),
    "JSON lines with a UTF-8 mark": ("a.jsonl", json_lines(ROWS).encode("utf-8-sig"), ROWS),
    "JSON lines in UTF-16": ("a.jsonl", json_lines(ROWS).encode("utf-16"), ROWS),
    "JSON lines in big-endian UTF-16": ("a.jsonl", codecs.BOM_UTF16_BE + json_lines(ROWS).encode("utf-16-be"), ROWS),
    "JSON lines in UTF-16 without a mark": ("a.jsonl", json_lines(WESTERN).encode("utf-16-le"), WESTERN),
    "JSON lines in UTF-32": ("a.jsonl", json_lines(ROWS).encode("utf-32"), ROWS),
    "JSON lines in cp1252": ("a.jsonl", json_lines(WESTERN).encode("cp1252"), WESTERN),
    "JSON lines that are a list": ("a.jsonl", json.dumps(RECORDS).encode(), ROWS),
    "JSON list": ("a.json", json.dumps(RECORDS).encode(), ROWS),
    "JSON list, indented": ("a.json", json.dumps(RECORDS, indent=2, ensure_ascii=False).encode(), ROWS),
    "JSON list with a UTF-8 mark": ("a.json", json.dumps(RECORDS).encode("utf-8-sig"), ROWS),
    "JSON list in UTF-16": ("a.json", json.dumps(RECORDS, indent=3).encode("utf-16"), ROWS),
    "JSON list of conversations": ("a.json", json.dumps([chat(*row) for row in ROWS]).encode(), ROWS),
    "JSON with a data key": ("a.json", json.dumps({"version": "1", "data": RECORDS}).encode(), ROWS),
    "JSON with splits": ("a.json", json.dumps({"test": [{"question": "no", "answer": "no"}], "train": RECORDS}).encode(), ROWS),
    "JSON columns": ("a.json", json.dumps({key: [row[key] for row in RECORDS] for key in RECORDS[0]}).encode(), ROWS),
    "JSON columns by index": (
        "a.json",
        json.dumps({key: {str(number): row[key] for number, row in enumerate(RECORDS)} for key in RECORDS[0]}).encode(),
        ROWS,
    ),
    "JSON rows by index": ("a.json", json.dumps({str(number): row for number, row in enumerate(RECORDS)}).encode(), ROWS),
    "JSON lines under the name .json": ("a.json", json_lines(ROWS).encode(), ROWS),
    "CSV": ("a.csv", table(ROWS).encode(), ROWS),
    "CSV with LF": ("a.csv", table(ROWS, lineterminator="\n").encode(), ROWS),
    "CSV, all cells quoted": ("a.csv", table(ROWS, quoting=csv.QUOTE_ALL).encode(), ROWS),
    "CSV with semicolons": ("a.csv", table(ROWS, delimiter=";").encode(), ROWS),
    "CSV with tabs": ("a.csv", table(ROWS, delimiter="\t").encode(), ROWS),
    "CSV with bars": ("a.csv", table(ROWS, delimiter="|").encode(), ROWS),
    "CSV with a UTF-8 mark": ("a.csv", table(ROWS).encode("utf-8-sig"), ROWS),
    "CSV in cp1252 with semicolons": ("a.csv", table(WESTERN, delimiter=";").encode("cp1252"), WESTERN),
    "CSV in UTF-16 with tabs": ("a.csv", table(ROWS, delimiter="\t").encode("utf-16"), ROWS),
    "CSV below blank lines": ("a.csv", b"\r\n\r\n" + table(ROWS).encode(), ROWS),
    "CSV with a comma at the end of every line": ("a.csv", b"question,answer,\na,b,\nc,d,\n", [("a", "b"), ("c", "d")]),
    "CSV with the line ends of old Macs": ("a.csv", b"question,answer\ra,b\rc,d\r", [("a", "b"), ("c", "d")]),
    "TSV": ("a.tsv", table(ROWS, delimiter="\t").encode(), ROWS),
    "TSV where quotes mean nothing": (
        "a.tsv",
        b"question\tanswer\n" + "\n".join(f'{question}\t"{answer}' for question, answer in ONE_LINE).encode(),
        [(question, f'"{answer}') for question, answer in ONE_LINE],
    ),
    "Parquet": ("a.parquet", parquet(RECORDS), ROWS),
    "Parquet with a category and numbers": (
        "a.parquet",
        parquet({"question": pa.array(["a", "b"]).dictionary_encode(), "answer": [1.5, 2.0]}),
        [("a", "1.5"), ("b", "2.0")],
    ),
    "Parquet with turns as columns of lists": (
        "a.parquet",
        parquet({"conversations": [{"from": ["human", "gpt"], "value": list(row)} for row in ROWS]}),
        ROWS,
    ),
    "Arrow stream": ("a.arrow", arrow(RECORDS, pa.ipc.new_stream), ROWS),
    "Arrow file": ("a.arrow", arrow(RECORDS, pa.ipc.new_file), ROWS),
    "gzip": ("a.jsonl.gz", gzip.compress(json_lines(ROWS).encode()), ROWS),
    "gzip of CSV": ("a.csv.gz", gzip.compress(table(ROWS).encode()), ROWS),
    "gzip of Parquet": ("a.parquet.gz", gzip.compress(parquet(RECORDS)), ROWS),
    "bzip2": ("a.jsonl.bz2", bz2.compress(json_lines(ROWS).encode()), ROWS),
    "Zstandard": ("a.jsonl.zst", pa.compress(json_lines(ROWS).encode(), codec="zstd", asbytes=True), ROWS),
    "zip": ("a.zip", zipped({"README.md": b"about", "rows.jsonl": json_lines(ROWS).encode()}), ROWS),
    "zip of several files": (
        "a.zip",
        zipped({"in/a.jsonl": json_lines(ROWS[:9]).encode(), "in/b.csv": table(ROWS[9:]).encode(), "README.md": b"about"}),
        ROWS,
    ),
    "zip of a packed file from a Mac": (
        "a.zip",
        zipped({"a.jsonl.gz": gzip.compress(json_lines(ROWS).encode()), "__MACOSX/._a.jsonl": b"\0\0"}),
        ROWS,
    ),
    "zip of Parquet": ("a.zip", zipped({"rows.parquet": parquet(RECORDS)}), ROWS),
    "tar": ("a.tar.gz", tarred({"a.jsonl": json_lines(ROWS).encode()}), ROWS),
    "Markdown": (
        "a.md",
        b"# One\n\nText.\n\n## Deeper\n\nMore.\n\n# Two\n\nEnd.\n",
        [("# One\n\nText.",), ("## Deeper\n\nMore.",), ("# Two\n\nEnd.",)],
    ),
    "numbers and truth values": (
        "a.jsonl",
        b'{"question": 1.50, "answer": 12345678901234567890}\n{"question": true, "answer": -0.0}\n{"question": 1e400, "answer": false}',
        [("1.50", "12345678901234567890"), ("true", "-0.0"), ("1e400", "false")],
    ),
    "NUL characters": (
        "a.jsonl",
        b'{"question": "a\\u0000b", "answer": "\\u0000"}\n{"question": "c\td\x00", "answer": "e"}',
        [("a\0b", "\0"), ("c\td\0", "e")],
    ),
    "an index column without a name": ("a.csv", b",question,answer\n0,a,b\n1,c,d\n", [("a", "b"), ("c", "d")]),
    "spaces around column names": ("a.csv", b" question , answer\na,b\nc,d\n", [("a", "b"), ("c", "d")]),
    "capital column names": ("a.csv", b"Question,ANSWER\na,b\nc,d\n", [("a", "b"), ("c", "d")]),
    "a line of ten million characters": (
        "a.jsonl",
        json.dumps({"question": "long", "answer": "x" * 10_000_000}).encode() + b'\n{"question": "c", "answer": "d"}',
        [("long", "x" * 10_000_000), ("c", "d")],
    ),
    "a cell of a million characters": (
        "a.csv",
        b"question,answer\nlong," + b"x" * 1_000_000 + b"\nc,d\n",
        [("long", "x" * 1_000_000), ("c", "d")],
    ),
}


def read(tmp_path: Path, source: str | Path, **spec: object) -> Rows:
    runtime = RuntimeOptions(cache_dir=tmp_path / "cache")
    return read_rows(DatasetSpec(source=str(source), **spec), runtime, Recorder())  # type: ignore[arg-type]


def contents(rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(turn["content"] for turn in messages) for messages in rows.dataset["messages"]]


@pytest.mark.parametrize("kind", GOOD)
def test_a_readable_file_gives_exactly_its_rows(tmp_path: Path, kind: str) -> None:
    name, content, expected = GOOD[kind]
    (tmp_path / name).write_bytes(content)
    rows = read(tmp_path, tmp_path / name)
    assert contents(rows) == expected
    assert rows.facts.read == len(expected)
    assert rows.facts.skipped == 0


TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
SHAREGPT = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]


@pytest.mark.parametrize(
    "chat",
    [
        {"id": 7, "messages": TURNS},
        {"messages": TURNS},
        {"messages": TURNS, "tools": [{"name": "none"}] * 3},
        {"id": 7, "conversations": SHAREGPT, "system": "Count."},
        {"data": [{"id": 7, "conversations": SHAREGPT}]},
        {"conversations": [{"question": "2 + 2?", "answer": "4"}]},
        TURNS,
    ],
)
def test_a_json_file_of_one_conversation_is_one_row_with_its_roles(tmp_path: Path, chat: object) -> None:
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    rows = read(tmp_path, tmp_path / "chat.json")
    assert [[turn["role"] for turn in messages][-2:] for messages in rows.dataset["messages"]] == [["user", "assistant"]]
    assert contents(rows)[0][-2:] == ("2 + 2?", "4")


def test_turns_that_name_no_known_field_are_refused_and_not_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(json.dumps({"messages": [{"speaker": "Ada", "text": "2 + 2?"}, {"speaker": "Bob", "text": "4"}]}))
    with pytest.raises(BadRow, match="column messages has a message of 'Ada'"):
        read(tmp_path, tmp_path / "chat.json")


def test_records_that_have_a_role_and_a_content_stay_records(tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(
        json.dumps({"jobs": [{"role": "cook", "content": "Cooks."}, {"role": "baker", "content": "Bakes."}]})
    )
    assert contents(read(tmp_path, tmp_path / "jobs.json")) == [("Cooks.",), ("Bakes.",)]


REFUSED: dict[str, tuple[str, bytes, type[DatasetError], str]] = {
    "empty": ("a.jsonl", b"", EmptyDataset, r"^a\.jsonl is empty"),
    "only line ends": ("a.jsonl", b"\n\r\n\n", EmptyDataset, "contains no rows"),
    "an empty list": ("a.json", b"[]", EmptyDataset, "contains no rows"),
    "only column names": ("a.csv", b"question,answer\n", EmptyDataset, "contains no rows"),
    "a blank CSV": ("a.csv", b"\n\n", EmptyDataset, "is empty"),
    "blank text": ("a.txt", b" \n\n\t\n", EmptyDataset, "contains no rows"),
    "a broken line": ("a.jsonl", b'{"question": "a", "answer": "b"}\n{"question": "c', BadRow, r"line 2: .* starting at column 14"),
    "an empty packed file": ("a.jsonl.gz", gzip.compress(b""), EmptyDataset, "contains no rows"),
    "an empty zip": ("a.zip", zipped({}), DatasetError, r"^a\.zip contains no files"),
    "a broken list": (
        "a.json",
        b'[{"question": "a", "answer": "b"},\n{"question" "c"}]',
        BadRow,
        r"^a\.json, line 2: this is not valid JSON",
    ),
    "a list cut short": ("a.json", b'[{"question": "a", "answer": "b"},\n', BadRow, r"^a\.json, line 2"),
    "a list without a comma": ("a.json", b'[{"question": "a", "answer": "b"}\n{"question": "c"}]', BadRow, r"^a\.json, line 2"),
    "something after a list": ("a.json", json.dumps(RECORDS).encode() + b"\n[]", BadRow, r"^a\.json, line 2.*after the end"),
    "no JSON at all": ("a.json", b"hello there", BadRow, r"^a\.json, line 1: this is not valid JSON"),
    "columns of different lengths": ("a.json", b'{"question": ["a", "b"], "answer": ["c"]}', BadRow, "question: 2, answer: 1"),
    "a list of numbers": ("a.json", b"[1, 2, 3]", BadRow, "not an object"),
    "unknown columns": ("a.jsonl", b'{"galdera": "a", "erantzuna": "b"}\n' * 3, UnknownFormat, "has the columns galdera, erantzuna"),
    "a column that is always null": (
        "a.jsonl",
        b'{"question": "a", "answer": null}\n' * 3,
        EmptyDataset,
        r"^a\.jsonl: column answer is miss",
    ),
    "a column that is always empty": ("a.csv", b"question,answer\na,\nb,\n", EmptyDataset, r"^a\.csv: column answer is empty"),
    "a nested answer": ("a.jsonl", b'{"question": "a", "answer": {"b": 1}}\n' * 3, BadRow, "column answer has an object"),
    "the same column twice": (
        "a.csv",
        b"question,answer,answer\na,b,c\n",
        UnknownFormat,
        "question, answer 1, answer 2: prompts in question, but no column",
    ),
    "a quote that never closes": ("a.csv", b'question,answer\na,b\nc,"d\ne,f\n', BadRow, r"^a\.csv, line 3: an opening quote here"),
    "a wrong number of cells": ("a.csv", b"question,answer\na,b\nc,d,e\n", BadRow, "line 3: 3 cells, but the header has 2"),
    "a picture": ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, UnknownFormat, r"^a\.txt is a binary file"),
    "bytes of no text": ("a.jsonl", bytes(range(256)) * 40, UnknownFormat, "binary"),
    "Parquet cut short": ("a.parquet", parquet(RECORDS)[:-20], BadRow, r"^a\.parquet cannot be read"),
    "Parquet without rows": (
        "a.parquet",
        parquet({name: pa.array([], pa.string()) for name in ("question", "answer")}),
        EmptyDataset,
        "contains no rows",
    ),
    "a Git LFS pointer": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        DatasetError,
        r"^a\.parquet is a Git LFS pointer",
    ),
    "Parquet that is none": ("a.parquet", b"hello", BadRow, r"^a\.parquet cannot be read"),
    "Arrow that is none": ("a.arrow", b"hello there, this is no arrow file", BadRow, r"^a\.arrow cannot be read"),
    "gzip cut short": ("a.jsonl.gz", gzip.compress(json_lines(ROWS * 50).encode())[:-40], BadRow, r"^a\.jsonl\.gz cannot be read"),
    "gzip that is none": ("a.jsonl.gz", b"hello", BadRow, r"^a\.jsonl\.gz cannot be read"),
    "zip that is none": ("a.zip", b"hello", BadRow, r"^a\.zip is not a complete"),
    "tar that is none": ("a.tar.gz", gzip.compress(b"hello"), BadRow, r"^a\.tar\.gz is not a complete \.tar"),
    "a workbook that is none": ("a.xlsx", zipped({"xl/sheet.xml": b"<x/>"}), DatasetError, r"^a\.xlsx"),
    "another kind of file": ("a.odt", b"PK\x03\x04", UnknownFormat, r"^a\.odt is not a supported data file"),
    "half a surrogate pair": ("a.jsonl", b'{"question": "a", "answer": "\\ud83d"}\n' * 3, BadRow, "not valid Unicode"),
    "JSON nested without end": ("a.jsonl", b"[" * 100_000, BadRow, "nested too deeply|not valid JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_unusable_file_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    name, content, error, sentence = REFUSED[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=sentence) as refused:
        read(tmp_path, tmp_path / name)
    assert "\n" not in refused.value.message
    assert refused.value.hint
    assert not list((tmp_path / "cache").rglob(".*")), "nothing half-read stays in the cache"


def test_few_bad_rows_are_skipped_and_listed_with_file_and_line(tmp_path: Path) -> None:
    lines = json_lines([(str(number), "x") for number in range(400)]).split("\n")
    lines[10] = "{broken"
    lines[20] = '{"question": "no answer"}'
    lines[30] = '["not", "an object"]'
    lines[40] = '{"question": "q", "answer": "\\udfff"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    facts = read(tmp_path, tmp_path / "a.jsonl").facts
    assert [(row.file, row.line) for row in facts.skipped_rows] == [("a.jsonl", 11), ("a.jsonl", 21), ("a.jsonl", 31), ("a.jsonl", 41)]
    assert facts.read == 400
    assert facts.skipped == 4


def test_more_than_one_percent_of_bad_rows_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    lines = json_lines([(str(number), "x") for number in range(100)]).split("\n")
    lines[10] = lines[50] = "{broken"
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for _ in range(2):  # also when the rows come from the cache
        with pytest.raises(BadRow, match=r"^2 of 100 rows .*a\.jsonl lines 11, 51: not JSON"):
            read(tmp_path, tmp_path / "a.jsonl")


def test_a_few_bytes_of_another_encoding_spoil_their_row_only(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"é{number}", "answer": "ü"}, ensure_ascii=False).encode() for number in range(300)]
    lines[7] = lines[7].replace("é".encode(), b"\xe9")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = read(tmp_path, tmp_path / "a.jsonl")
    assert len(rows.dataset) == 299
    assert [(row.line, row.reason) for row in rows.facts.skipped_rows] == [(8, "text that is not valid Unicode")]


def test_lines_are_counted_through_cells_that_hold_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"two\nlines",a\n\nb,c\n', encoding="utf-8")
    assert read(tmp_path, tmp_path / "a.csv").dataset["line"][:] == [2, 5]


def test_a_table_longer_than_the_sample_is_cut_nowhere(tmp_path: Path) -> None:
    expected = [(f"{number}\r\n" * (number % 5), "ä, " * (number % 7) + "end") for number in range(6000)]
    (tmp_path / "a.csv").write_bytes(table(expected).encode())
    assert contents(read(tmp_path, tmp_path / "a.csv")) == expected


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_quoted_cell_that_the_end_of_the_sample_cuts_is_no_reason_to_read_quotes_as_letters(tmp_path: Path, name: str) -> None:
    expected = [(f"{number}\n" * 30, "one\ntwo\n\n" * 20) for number in range(400)]
    (tmp_path / name).write_bytes(table(expected, delimiter="\t").encode())
    assert contents(read(tmp_path, tmp_path / name)) == expected


def test_a_stray_quote_in_a_long_table_of_tabs_is_a_letter(tmp_path: Path) -> None:
    expected = [(f"{number}", '"an inch' if number == 9 else "x" * 50) for number in range(3000)]
    (tmp_path / "a.tsv").write_text("question\tanswer\n" + "".join(f"{question}\t{answer}\n" for question, answer in expected))
    assert contents(read(tmp_path, tmp_path / "a.tsv")) == expected


def test_running_text_is_cut_between_paragraphs_and_loses_nothing(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number} " + "word " * (number % 30) for number in range(400)]
    paragraphs[100:100] = [" = A title = ", " = = A section = = "]
    (tmp_path / "a.txt").write_bytes("\r\n \r\n".join(paragraphs).encode())
    rows = read(tmp_path, tmp_path / "a.txt", max_length=64)
    documents = [text for (text,) in contents(rows)]
    assert [line for text in documents for line in text.split("\n") if line.strip()] == paragraphs
    assert max(map(len, documents)) <= 64 * 3
    title = next(text for text in documents if "A title" in text)
    assert title.startswith(" = A title = ")
    assert "A section" in title
    assert "Paragraph 100" in title


def test_text_without_blank_lines_is_cut_between_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number}\n" for number in range(1000)))
    documents = [text for (text,) in contents(read(tmp_path, tmp_path / "a.txt"))]
    assert "\n".join(documents).split("\n") == [f"line {number}" for number in range(1000)]
    assert len(documents) >= 20


def test_the_second_reading_comes_from_the_cache_until_the_content_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json_lines(ROWS), encoding="utf-8")
    first = read(tmp_path, file)
    (tmp_path / "elsewhere.jsonl").write_bytes(file.read_bytes())
    assert read(tmp_path, tmp_path / "elsewhere.jsonl").fingerprint == first.fingerprint
    file.write_text(json_lines(ROWS[:4]), encoding="utf-8")
    assert contents(read(tmp_path, file)) == ROWS[:4]


def test_a_copy_is_reported_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json_lines(ROWS) + '\n["no object"]', encoding="utf-8")
    (tmp_path / "renamed.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
    for name in ("rows.jsonl", "renamed.jsonl", "rows.jsonl"):
        facts = read(tmp_path, tmp_path / name, bad_rows=0.1).facts
        assert (facts.origin, facts.files, [row.file for row in facts.skipped_rows]) == (name, [name], [name])


def test_chosen_columns_win_over_detected_ones_and_others_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer,better\na,b,c\nd,e,f\n")
    rows = read(tmp_path, tmp_path / "a.csv", columns=ColumnsSpec(prompt="question", completion="better"))
    assert contents(rows) == [("a", "c"), ("d", "f")]
    assert rows.facts.ignored_columns == ["answer"]
    with pytest.raises(UnknownFormat, match=r"no column 'beter' .*Did you mean better\?"):
        read(tmp_path, tmp_path / "a.csv", columns=ColumnsSpec(text="beter"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    (tmp_path / "a.jsonl").write_text(json_lines(ROWS), encoding="utf-8")
    with pytest.raises(HardwareError, match=r"The cache folder .*cache.* cannot be written") as refused:
        read(tmp_path, tmp_path / "a.jsonl")
    assert "FINETUNE_CLI_CACHE" in str(refused.value.hint)
