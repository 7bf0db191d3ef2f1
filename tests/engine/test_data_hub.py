"""Data sets of a Hub, through the unmodified libraries: streamed, pinned, and refused kindly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback_datasets import COMMIT, LoopbackDatasets

ASK = """
import json, sys, time
from pathlib import Path
from finetune.data.sources import read_rows
from finetune.errors import DatasetError
from finetune.events import Notice, Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
import datasets
for spec in json.loads(sys.argv[1]):
    recorder, start = Recorder(), time.perf_counter()
    try:
        rows = read_rows(DatasetSpec(**spec), RuntimeOptions(cache_dir=Path(sys.argv[2])), recorder)
        first = [turn["content"] for turn in rows.dataset[0]["messages"]]
        answer = {"rows": len(rows.dataset), "first": first, "pinned": rows.facts.pinned, "fingerprint": rows.fingerprint}
    except DatasetError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    print(json.dumps({**answer, "seconds": time.perf_counter() - start, "notes": [notice.text for notice in recorder.of(Notice)]}))
"""


def ask(tmp_path: Path, address: str, *specs: dict[str, Any]) -> list[dict[str, Any]]:
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        environment.pop(name, None)
    command = [sys.executable, "-c", ASK, json.dumps(specs), str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no noise of libraries"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    folder = tmp_path / "hub"
    folder.mkdir()
    parts = [(f"train-{part:05}-of-00008", 3000) for part in range(8)] + [("test-00000-of-00001", 50)]
    for name, count in parts:
        rows = [json.dumps({"question": f"{name.split('-')[0]} {number}", "answer": "x" * 400}) for number in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with LoopbackDatasets({"org/rows": folder, "org/closed": folder}, gated={"org/closed"}) as running:
        yield running


def test_only_as_much_is_fetched_as_is_needed(tmp_path: Path, hub: LoopbackDatasets) -> None:
    (streamed,) = ask(tmp_path, hub.address, {"source": "org/rows", "samples": 100})
    assert (streamed["rows"], streamed["first"][0], streamed["pinned"]) == (100, "train 0", f"org/rows@{COMMIT}")
    assert streamed["notes"] == ["The first 100 usable rows of org/rows (train) are used."]
    assert hub.sent < sum(file.stat().st_size for file in hub.folders["org/rows"].iterdir()) / 3


def test_rows_of_a_hub_are_pinned_and_refused_with_a_reason(tmp_path: Path, hub: LoopbackDatasets) -> None:
    test, slice_, revision, split, missing, closed = ask(
        tmp_path,
        hub.address,
        {"source": "org/rows", "split": "test", "samples": None},
        {"source": f"org/rows@{COMMIT}", "split": "test[:10%]"},
        {"source": "org/rows@dev"},
        {"source": "org/rows", "split": "validation"},
        {"source": "org/none"},
        {"source": "org/closed"},
    )
    assert (test["rows"], test["first"][0]) == (50, "test 0")
    assert slice_["rows"] == 5
    assert revision["message"] == "The data set org/rows has no revision dev."
    assert "validation" in split["message"]
    assert "train" in split["message"]
    assert missing["error"] == closed["error"] == "DatasetNotFound"
    assert "gated" in closed["message"]
    assert "hf auth login" in closed["hint"]


def test_without_a_network_the_answer_is_quick_and_what_is_here_still_works(tmp_path: Path, hub: LoopbackDatasets) -> None:
    (online,) = ask(tmp_path, hub.address, {"source": "org/rows", "split": "test", "samples": None})
    here, absent = ask(
        tmp_path, "http://127.0.0.1:9", {"source": "org/rows", "split": "test", "samples": 20}, {"source": "org/other", "samples": 20}
    )
    assert (here["rows"], here["first"]) == (online["rows"], online["first"])
    assert absent["error"] == "DatasetNotFound"
    assert "org/other is not on this machine" in absent["message"]
    assert absent["seconds"] < 3
