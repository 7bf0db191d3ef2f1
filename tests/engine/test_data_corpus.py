"""A corpus of odd and hostile files, through the program itself: each gives exactly its rows, or one sentence and exit code 2."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from bytes_tokenizer import CHATML, byte_level
from letters import llama
from odd_files import arrow, chat, lines, locked, parquet, plain, records, saved_by_datasets, table, tarred, zipped

from finetune.cli import main
from finetune.data.prepare import prepare_data
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

TRICKY = ["None", "NA", "null", "nan", "007", "1.50", "  blanks around  ", 'said "so", then; left|right', "two\nlines", "tab\there"]
TRICKY += [
    "NUL \0 inside",
    "👩‍👩‍👧 emoji 🎉",
    "مرحبا بالعالم",
    "שלום עולם",
    "漢字かな",
    "e\u0301 combined",
    "zero\u200bwidth",
    "<b>&amp;</b>",
]
PAIRS = [(f"{number}: {text}", text) for number, text in enumerate(TRICKY)]
WESTERN = [(f"{number}: {text}", f"{text} – café €5 “so”") for number, text in enumerate(TRICKY[:9])]
ASCII = [(f"question {number}", f"answer {number}") for number in range(12)]
TEXTS = [f"{number}: {text}" for number, text in enumerate(TRICKY) if "\n" not in text and "\0" not in text]


class Case(NamedTuple):
    """Files in the working folder and the `dataset` part of a recipe; `rows` are the tokens as text, `said` the words of a refusal."""

    files: dict[str, bytes]
    spec: dict[str, Any]
    rows: list[str] | None = None
    said: tuple[str, ...] = ()
    skipped: int = 0
    template: str | None = None


def one(name: str, content: bytes, **spec: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    return {name: content}, {"source": name, **spec}


ASK = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
MARKDOWN = "# One\n\nFirst text.\n\n## Deeper\n\nSecond text.\n\n# Two\n\nThird text.\n"
LONG = "x" * 10_000_000

LOADED: dict[str, Case] = {
    "JSON lines with everything in them": Case(*one("a.jsonl", lines(records(PAIRS))), rows=plain(PAIRS)),
    "CRLF": Case(*one("a.jsonl", lines(records(PAIRS), "\r\n")), rows=plain(PAIRS)),
    "a mark at the start": Case(*one("a.jsonl", b"\xef\xbb\xbf" + lines(records(PAIRS))), rows=plain(PAIRS)),
    "UTF-16": Case(*one("a.jsonl", lines(records(PAIRS)).decode().encode("utf-16")), rows=plain(PAIRS)),
    "cp1252": Case(*one("a.csv", table(WESTERN).encode("cp1252")), rows=plain(WESTERN)),
    "an encoding that is told": Case(
        *one("a.csv", table([("1", "Łódź"), ("2", "Kraków"), ("3", "żółw")]).encode("cp1250"), encoding="cp1250"),
        rows=plain([("1", "Łódź"), ("2", "Kraków"), ("3", "żółw")]),
    ),
    "bare tabs and NULs inside JSON strings": Case(
        *one("a.jsonl", b'{"question": "a\tb\x00c", "answer": "d"}\n' + lines(records(ASCII))), rows=plain([("a\tb\0c", "d"), *ASCII])
    ),
    "numbers as they are spelled": Case(
        *one("a.jsonl", b'{"question": 1.50, "answer": 1e400}\n{"question": 12345678901234567890, "answer": false}\n'),
        rows=plain([("1.50", "1e400"), ("12345678901234567890", "false")]),
    ),
    "a list": Case(*one("a.json", json.dumps(records(PAIRS)).encode()), rows=plain(PAIRS)),
    "a list, indented, in UTF-16": Case(*one("a.json", json.dumps(records(PAIRS), indent=3).encode("utf-16")), rows=plain(PAIRS)),
    "a data key": Case(*one("a.json", json.dumps({"about": "x", "data": records(PAIRS)}).encode()), rows=plain(PAIRS)),
    "a dict of columns": Case(
        *one("a.json", json.dumps({"question": [q for q, _ in PAIRS], "answer": [a for _, a in PAIRS]}).encode()), rows=plain(PAIRS)
    ),
    "a list of conversations": Case(
        *one("a.json", json.dumps([chat(*pair) for pair in ASCII]).encode()), rows=[ASK.format(*pair) for pair in ASCII], template=CHATML
    ),
    "semicolons": Case(*one("a.csv", table(PAIRS, delimiter=";").encode()), rows=plain(PAIRS)),
    "Excel's sep= line": Case(*one("a.csv", b"sep=;\r\n" + table(PAIRS, delimiter=";").encode("utf-8")), rows=plain(PAIRS)),
    "blank lines above the column names": Case(*one("a.csv", b"\r\n\r\n" + table(PAIRS).encode()), rows=plain(PAIRS)),
    "tabs under the name .csv": Case(*one("a.csv", table(PAIRS, delimiter="\t").encode()), rows=plain(PAIRS)),
    "tab-separated": Case(*one("a.tsv", table(PAIRS, delimiter="\t").encode()), rows=plain(PAIRS)),
    "a trailing comma in every line": Case(*one("a.csv", b"question,answer,\na,b,\nc,d,\n"), rows=plain([("a", "b"), ("c", "d")])),
    "old Mac line ends": Case(*one("a.csv", b"question,answer\ra,b\rc,d\r"), rows=plain([("a", "b"), ("c", "d")])),
    "Parquet": Case(*one("a.parquet", parquet(pa.Table.from_pylist(records(PAIRS)))), rows=plain(PAIRS)),
    "Parquet with a category and a decimal": Case(
        *one("a.parquet", parquet({"question": pa.array(["a", "b"]).dictionary_encode(), "answer": [1.5, 2.0]})),
        rows=plain([("a", "1.5"), ("b", "2.0")]),
    ),
    "an Arrow stream": Case(*one("a.arrow", arrow(records(PAIRS), pa.ipc.new_stream)), rows=plain(PAIRS)),
    "an Arrow file": Case(*one("a.arrow", arrow(records(PAIRS), pa.ipc.new_file)), rows=plain(PAIRS)),
    "gzip": Case(*one("a.jsonl.gz", gzip.compress(lines(records(PAIRS)))), rows=plain(PAIRS)),
    "Zstandard": Case(*one("a.csv.zst", pa.compress(table(PAIRS).encode(), codec="zstd", asbytes=True)), rows=plain(PAIRS)),
    "bzip2": Case(*one("a.jsonl.bz2", bz2.compress(lines(records(PAIRS)))), rows=plain(PAIRS)),
    "a zip of several files": Case(
        *one("a.zip", zipped({"in/a.jsonl": lines(records(PAIRS[:9])), "in/b.csv": table(PAIRS[9:]).encode(), "README.md": b"about"})),
        rows=plain(PAIRS),
    ),
    "a tar": Case(*one("a.tar.gz", tarred({"a.jsonl": lines(records(PAIRS))})), rows=plain(PAIRS)),
    "a zip of packed files": Case(
        *one("a.zip", zipped({"a.jsonl.gz": gzip.compress(lines(records(PAIRS))), "__MACOSX/._a.jsonl": b"\0\0"})), rows=plain(PAIRS)
    ),
    "a folder": Case(
        {"d/a.jsonl": lines(records(PAIRS[:9])), "d/deep/b.csv": table(PAIRS[9:]).encode(), "d/README.md": b"x", "d/.x.jsonl": b"x"},
        {"source": "d"},
        rows=plain(PAIRS),
    ),
    "a glob": Case(
        {"d/a.jsonl": lines(records(PAIRS[:9])), "d/b.jsonl": lines(records(PAIRS[9:])), "d/c.csv": b"no"},
        {"source": "d/*.jsonl"},
        rows=plain(PAIRS),
    ),
    "several files by name": Case(
        {"a.jsonl": lines(records(PAIRS[:9])), "b.csv": table(PAIRS[9:]).encode()}, {"source": ["b.csv", "a.jsonl"]}, rows=plain(PAIRS)
    ),
    "a file with a comma in its name": Case(*one("a, b.jsonl", lines(records(PAIRS))), rows=plain(PAIRS)),
    "a folder with hostile names": Case(
        {"d/\x1b[31m é\u202e.jsonl": lines(records(PAIRS[:9])), "d/b c'\".jsonl": lines(records(PAIRS[9:]))},
        {"source": "d"},
        rows=plain(PAIRS),
    ),
    "files named after splits": Case(
        {"d/train.jsonl": lines(records(PAIRS)), "d/test.jsonl": lines(records(ASCII))}, {"source": "d"}, rows=plain(PAIRS)
    ),
    "three bad rows of many": Case(
        *one(
            "a.jsonl",
            lines(records([(str(number), f"answer {number}") for number in range(400)]))
            + b'{broken\n["no object"]\n{"question": "q", "answer": "\\ud83d"}\n',
        ),
        rows=plain([(str(number), f"answer {number}") for number in range(400)]),
        skipped=3,
    ),
    "many bad rows that may be skipped": Case(
        *one("a.jsonl", lines(records(ASCII)) + b"{broken\n" * 3, bad_rows=0.2), rows=plain(ASCII), skipped=3
    ),
    "dates beyond the calendar": Case(
        *one(
            "a.parquet",
            parquet({"question": pa.array([1, 2**58, 3], pa.timestamp("ms")), "answer": ["a", "b", "c"]}),
            bad_rows=0.5,
        ),
        rows=plain([("1970-01-01 00:00:00.001000", "a"), ("1970-01-01 00:00:00.003000", "c")]),
        skipped=1,
    ),
    "alpaca": Case(
        *one("a.jsonl", lines([{"instruction": f"do {n}", "input": "it" if n % 2 else "", "output": str(n)} for n in range(6)])),
        rows=plain([(f"do {n}\n\nit" if n % 2 else f"do {n}", str(n)) for n in range(6)]),
    ),
    "ShareGPT": Case(
        *one("a.jsonl", lines([{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in ASCII])),
        rows=[ASK.format(*pair) for pair in ASCII],
        template=CHATML,
    ),
    "ShareGPT as columns of lists": Case(
        *one("a.parquet", parquet({"conversations": [{"from": ["human", "gpt"], "value": list(pair)} for pair in ASCII]})),
        rows=[ASK.format(*pair) for pair in ASCII],
        template=CHATML,
    ),
    "OpenAI messages with a system text and several turns": Case(
        *one("a.jsonl", lines([{"messages": chat(q, a, "and then?", "the end", system="be brief"), "tools": []} for q, a in ASCII])),
        rows=["<|im_start|>system\nbe brief<|im_end|>\n" + ASK.format(*p) + "\n" + ASK.format("and then?", "the end") for p in ASCII],
        template=CHATML,
    ),
    "preferences": Case(
        *one("a.jsonl", lines([{"prompt": q, "chosen": a, "rejected": "worse"} for q, a in ASCII])), rows=plain(ASCII)
    ),
    "columns that are chosen": Case(
        *one("a.csv", table(PAIRS).encode(), columns={"prompt": "answer", "completion": "question"}),
        rows=plain([(answer, question) for question, answer in PAIRS]),
    ),
    "one text a line": Case(*one("a.txt", "\r\n".join(TEXTS).encode(), text_as="line"), rows=[f"{text}</s>" for text in TEXTS]),
    "one text a file": Case(
        {"d/a.txt": b"one\n\ntwo\n", "d/b.txt": "drei\n".encode("utf-16"), "d/c.md": b"# four\n"},
        {"source": "d", "text_as": "document"},
        rows=["one\n\ntwo\n</s>", "drei\n</s>", "# four\n</s>"],
    ),
    "Markdown between headings": Case(
        *one("a.md", MARKDOWN.encode()),
        rows=["# One\n\nFirst text.</s>", "## Deeper\n\nSecond text.</s>", "# Two\n\nThird text.</s>"],
    ),
}  # fmt: skip

REFUSED: dict[str, Case] = {
    "no such file": Case({"rows.jsonl": b"{}"}, {"source": "rwos.jsonl"}, said=("There is no file rwos.jsonl",)),
    "empty": Case(*one("a.jsonl", b""), said=("a.jsonl is empty",)),
    "an empty packed file": Case(*one("a.jsonl.gz", gzip.compress(b"")), said=("a.jsonl.gz contains no rows",)),
    "an empty folder": Case({"d/.keep": b""}, {"source": "d"}, said=("contains no data files",)),
    "an empty zip": Case(*one("a.zip", zipped({})), said=("a.zip contains no files",)),
    "one row": Case(*one("a.jsonl", lines(records(ASCII[:1]))), said=("a.jsonl has only one usable row",)),
    "the same row over and over": Case(*one("a.jsonl", lines(records(ASCII[:1] * 30))), said=("also occurs in the training rows",)),
    "a broken line": Case(*one("a.jsonl", lines(records(ASCII)) + b'{"question": "x'), said=("a.jsonl line 13", "not JSON")),
    "a broken list": Case(*one("a.json", b'[{"question": "a",\n "answer" "b"}]'), said=("a.json, line 2", "not valid JSON")),
    "something after a list": Case(*one("a.json", json.dumps(records(ASCII)).encode() + b"\n[]"), said=("a.json, line 2", "after the end")),
    "a list that stops": Case(*one("a.json", json.dumps(records(ASCII)).encode()[:-5]), said=("a.json, line 1", "not valid JSON")),
    "JSON nested without end": Case(*one("a.json", b'{"question":' * 100_000), said=("a.json", "nested too deeply")),
    "a page of HTML": Case(*one("a.jsonl", b"<!DOCTYPE html>\n<html><body>404</body></html>\n"), said=("a.jsonl is a web page",)),
    "a Git LFS pointer": Case(*one("a.parquet", POINTER), said=("a.parquet is a Git LFS pointer",)),
    "a picture": Case(*one("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256))), said=("a.txt is a binary file",)),
    "a program": Case(*one("a.jsonl", b"\x7fELF" + bytes(range(256)) * 9), said=("a.jsonl is a binary file",)),
    "a workbook": Case(*one("a.xlsx", zipped({"xl/sheet.xml": b"<x/>"})), said=("a.xlsx",)),
    "a pickle": Case(*one("a.pkl", b"\x80\x04."), said=("a.pkl is not a supported data file",)),
    "no tar at all": Case(*one("a.tar.gz", gzip.compress(b"hello")), said=("a.tar.gz is not a complete .tar",)),
    "a locked zip": Case(*one("a.zip", locked(zipped({"a.jsonl": lines(records(ASCII))}))), said=("a.zip is protected by a password",)),
    "a zip in a zip": Case(*one("a.zip", zipped({"b.zip": zipped({"a.jsonl": b"{}"})})), said=("a.zip contains no data files",)),
    "no zip at all": Case(*one("a.zip", b"hello"), said=("a.zip is not a complete .zip",)),
    "gzip cut short": Case(*one("a.jsonl.gz", gzip.compress(os.urandom(5000).hex().encode())[:-900]), said=("a.jsonl.gz cannot be read",)),
    "no gzip at all": Case(*one("a.csv.gz", b"question,answer\na,b\n"), said=("a.csv.gz cannot be read",)),
    "Parquet cut short": Case(*one("a.parquet", parquet({"question": ["a"], "answer": ["b"]})[:-9]), said=("a.parquet cannot be read",)),
    "Parquet without rows": Case(
        *one("a.parquet", parquet({name: pa.array([], pa.string()) for name in ("question", "answer")})), said=("contains no rows",)
    ),
    "bytes for text": Case(*one("a.parquet", parquet({"question": [b"a", b"b"], "answer": [b"c", b"d"]})), said=("has bytes",)),
    "columns nobody knows": Case(*one("a.csv", b"galdera,erantzuna\na,b\nc,d\n"), said=("a.csv has the columns galdera, erantzuna",)),
    "a column twice": Case(*one("a.csv", b"question,answer,answer\na,b,c\n"), said=("question, answer 1, answer 2: prompts in",)),
    "a column that is not there": Case(
        *one("a.csv", table(ASCII).encode(), columns={"text": "anser"}), said=("'anser'", "Did you mean answer?")
    ),
    "a column of nulls": Case(*one("a.jsonl", b'{"question": "q", "answer": null}\n' * 9), said=("a.jsonl", "column answer is missing")),
    "a quote that never closes": Case(*one("a.csv", b'question,answer\na,b\nc,"d\ne,f\n'), said=("a.csv, line 3", "no closing quote")),
    "ragged lines": Case(*one("a.tsv", b"question\tanswer\na\tb\nc\nd\te\n"), said=("a.tsv line 3", "1 cells")),
    "half surrogate pairs": Case(*one("a.jsonl", b'{"question": "q", "answer": "\\ud83d"}\n' * 9), said=("a.jsonl", "not valid Unicode")),
    "a wrong encoding that is told": Case(
        *one("a.csv", table(WESTERN).encode("cp1252"), encoding="utf-8"), said=("a.csv", "not valid Unicode")
    ),
    "an encoding nobody knows": Case(*one("a.csv", table(ASCII).encode(), encoding="utf-9"), said=("dataset.encoding", "utf-9")),
    "tool calls": Case(
        *one("a.jsonl", lines([{"messages": [*chat("hi"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}] * 9)),
        said=("a.jsonl", "line 1", "column messages has a tool call without a name"),
    ),
    "answers that are not to be learned": Case(
        *one("a.jsonl", lines([{"messages": [*chat("hi"), {"role": "assistant", "content": "no", "weight": 0}]}] * 9)),
        said=("a.jsonl", "no row is to be learned", "9 rows because every answer is marked as not to be learned"),
    ),
    "pictures in messages": Case(
        *one("a.jsonl", lines([{"messages": [{"role": "user", "content": [{"type": "image_url"}]}, *chat("q", "a")[1:]]}] * 9)),
        said=("a.jsonl", "images, audio or video (image_url)"),
    ),
    "a split that is not there": Case(
        {"d/train.jsonl": lines(records(ASCII))}, {"source": "d", "eval_split": "test"}, said=("no file of the split 'test'",)
    ),
    "a channel instead of a file": Case({"pipe": b"FIFO"}, {"source": "./pipe"}, said=("neither a file nor a folder",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico model whose tokenizer can write any text, without and with a chat template."""
    folder = tmp_path_factory.mktemp("models")
    for name, template in (("plain", None), ("chat", CHATML)):
        made = byte_level(template)
        llama(layers=1, vocabulary=len(made)).save_pretrained(folder / name)
        made.save_pretrained(folder / name)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path / "cache"))
    return folder


def plan(case: Case, models: Path) -> int:
    for name, content in case.files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == b"FIFO":
            if not hasattr(os, "mkfifo"):
                pytest.skip("this system has no such files")
            os.mkfifo(path)
        else:
            path.write_bytes(content)
    model = str(models / ("chat" if case.template else "plain"))
    dataset = {"samples": None, "held_out": 0.2, "max_length": 4096, **case.spec}
    Path("recipe.yaml").write_text(json.dumps({"model": model, "dataset": dataset, "output_dir": "made"}), encoding="utf-8")
    return main(["plan", "recipe.yaml", "--device", "cpu", "--json"])


def check_rows(case: Case, place: Path, printed: str) -> None:
    report = json.loads(printed)["data"]
    assert case.rows is not None
    assert (report["used"], report["skipped"], report["truncated"]) == (len(case.rows), case.skipped, 0)
    spec = DatasetSpec(**{"samples": None, "held_out": 0.2, "max_length": 4096, **case.spec})
    made = byte_level(case.template)
    prepared = prepare_data(spec, made, seed=42, runtime=RuntimeOptions(cache_dir=place.parent / "cache"))
    tokens = [*prepared.train["input_ids"], *prepared.held_out["input_ids"]]
    assert sorted(map(made.decode, tokens)) == sorted(case.rows)


@pytest.mark.parametrize("name", LOADED)
def test_an_odd_file_gives_exactly_its_rows(name: str, place: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = plan(LOADED[name], models)
    out, err = capfd.readouterr()
    assert code == 0, err
    check_rows(LOADED[name], place, out)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    name: str, place: Path, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = plan(REFUSED[name], models)
    out, err = capfd.readouterr()
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert sum(all(word in line for word in REFUSED[name].said) for line in err.splitlines()) == 1, err
    assert not Path("made").exists()


def test_what_datasets_saved_is_read_back(place: Path, models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = saved_by_datasets({"train": records(PAIRS), "test": records(ASCII)}, tmp_path / "saved")
    case = Case(files, {"source": "saved"}, rows=plain(PAIRS))
    assert plan(case, models) == 0
    check_rows(case, place, capfd.readouterr().out)


def test_ten_million_characters_in_a_line_are_read_and_cut(place: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "long", "answer": LONG}, *records(ASCII)]
    case = Case({"a.jsonl": lines(rows)}, {"source": "a.jsonl", "held_out": 0.01, "max_length": 100})
    assert plan(case, models) == 0
    report = json.loads(capfd.readouterr().out)["data"]
    assert (report["used"], report["skipped"]) == (len(rows), 0)
    assert report["length"]["max"] <= 100
