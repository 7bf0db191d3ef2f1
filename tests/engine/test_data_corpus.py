"""Odd and hostile files through the program itself: each gives exactly its tokens, or one sentence and exit code 2.

What is read of each kind of file is told by tests/unit/test_data_files.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from bytes_tokenizer import CHATML, byte_level
from letters import llama
from odd_files import chat, lines, parquet, records, saved_by_datasets, table, zipped

from finetune.cli import main
from finetune.data.prepare import prepare_data
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

TRICKY = ["None", "NA", "null", "nan", "007", "1.50", "  blanks around  ", 'said "so", then; left|right', "two\nlines", "tab\there"]
TRICKY += ["NUL \0 inside", "👩‍👩‍👧 emoji 🎉", "مرحبا بالعالم", "漢字かな", "e\u0301 combined", "zero\u200bwidth", "<b>&amp;</b>"]
PAIRS = [(f"{number}: {text}", text) for number, text in enumerate(TRICKY)]
WESTERN = [(f"{number}: {text}", f"{text} – café €5 “so”") for number, text in enumerate(TRICKY[:9])]
ASCII = [(f"question {number}", f"answer {number}") for number in range(12)]


class Case(NamedTuple):
    """Files in the working folder and the `dataset` part of a recipe; `rows` are the tokens as text, `said` the words of a refusal."""

    files: dict[str, bytes]
    spec: dict[str, Any]
    rows: list[str] | None = None
    said: tuple[str, ...] = ()
    skipped: int = 0
    template: str | None = None


def plain(pairs: list[tuple[str, str]]) -> list[str]:
    return [f"{question}\n{answer}</s>" for question, answer in pairs]


def one(name: str, content: bytes, **spec: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    return {name: content}, {"source": name, **spec}


ASK = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"

LOADED: dict[str, Case] = {
    "JSON lines with everything in them": Case(*one("a.jsonl", lines(records(PAIRS))), rows=plain(PAIRS)),
    "cp1252": Case(*one("a.csv", table(WESTERN).encode("cp1252")), rows=plain(WESTERN)),
    "an encoding that is told": Case(
        *one("a.csv", table([("1", "Łódź"), ("2", "Kraków"), ("3", "żółw")]).encode("cp1250"), encoding="cp1250"),
        rows=plain([("1", "Łódź"), ("2", "Kraków"), ("3", "żółw")]),
    ),
    "a list of conversations": Case(
        *one("a.json", json.dumps([chat(*pair) for pair in ASCII]).encode()), rows=[ASK.format(*pair) for pair in ASCII], template=CHATML
    ),
    "Parquet": Case(*one("a.parquet", parquet(records(PAIRS))), rows=plain(PAIRS)),
    "a zip of several files": Case(
        *one("a.zip", zipped({"in/a.jsonl": lines(records(PAIRS[:9])), "in/b.csv": table(PAIRS[9:]).encode(), "README.md": b"about"})),
        rows=plain(PAIRS),
    ),
    "several files by name": Case(
        {"a.jsonl": lines(records(PAIRS[:9])), "b.csv": table(PAIRS[9:]).encode()}, {"source": ["b.csv", "a.jsonl"]}, rows=plain(PAIRS)
    ),
    "a folder with hostile names": Case(
        {"d/\x1b[31m é\u202e.jsonl": lines(records(PAIRS[:9])), "d/b c'\".jsonl": lines(records(PAIRS[9:]))},
        {"source": "d"},
        rows=plain(PAIRS),
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
    "OpenAI messages with a system text and several turns": Case(
        *one("a.jsonl", lines([{"messages": chat(q, a, "and then?", "the end", system="be brief"), "tools": []} for q, a in ASCII])),
        rows=["<|im_start|>system\nbe brief<|im_end|>\n" + ASK.format(*p) + "\n" + ASK.format("and then?", "the end") for p in ASCII],
        template=CHATML,
    ),
    "one text a file": Case(
        {"d/a.txt": b"one\n\ntwo\n", "d/b.txt": "drei\n".encode("utf-16"), "d/c.md": b"# four\n"},
        {"source": "d", "text_as": "document"},
        rows=["one\n\ntwo\n</s>", "drei\n</s>", "# four\n</s>"],
    ),
}  # fmt: skip

REFUSED: dict[str, Case] = {
    "empty": Case(*one("a.jsonl", b""), said=("a.jsonl is empty",)),
    "the same row over and over": Case(*one("a.jsonl", lines(records(ASCII[:1] * 30))), said=("also occurs in the training rows",)),
    "a picture": Case(*one("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256))), said=("a.txt is a binary file",)),
    "Parquet cut short": Case(*one("a.parquet", parquet({"question": ["a"], "answer": ["b"]})[:-9]), said=("a.parquet cannot be read",)),
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


def test_a_million_characters_in_a_line_are_read_and_cut(place: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "long", "answer": "x" * 1_000_000}, *records(ASCII)]
    case = Case({"a.jsonl": lines(rows)}, {"source": "a.jsonl", "held_out": 0.01, "max_length": 100})
    assert plan(case, models) == 0
    report = json.loads(capfd.readouterr().out)["data"]
    assert (report["used"], report["skipped"]) == (len(rows), 0)
    assert report["length"]["max"] <= 100
