"""Data sets of a Hub, through the unmodified libraries: streamed, pinned, and refused kindly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import warm
from hub_client import ACCOUNTS, WRITES
from hub_server import COMMIT, HubServer, client_of

ASK = """
import json, sys, time
time.sleep = lambda seconds: None  # pauses between tries
from pathlib import Path
from finetune.data.reading import read_rows
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
        last = rows.dataset[-1]["messages"][0]["content"]
        answer = {"rows": len(rows.dataset), "first": first, "last": last, "pinned": rows.facts.pinned, "fingerprint": rows.fingerprint}
        answer["notes"], answer["restricted"] = rows.facts.notes, rows.restricted
        answer["notices"] = [event.text for event in recorder.of(Notice)]
    except DatasetError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    print(json.dumps({**answer, "seconds": time.perf_counter() - start}))
"""


def ask(tmp_path: Path, address: str, *specs: dict[str, Any], token: str | None = None) -> list[dict[str, Any]]:
    environment = {**os.environ, **client_of(address, tmp_path / "hf", token)}
    done = warm.run(["-c", ASK, json.dumps(specs), str(tmp_path / "cache")], tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no noise of libraries"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    folder = tmp_path / "hub"
    folder.mkdir()
    parts = [(f"train-{part:05}-of-00008", range(3000 * part, 3000 * part + 3000)) for part in range(8)]
    for name, numbers in [*parts, ("test-00000-of-00001", range(50))]:
        rows = [json.dumps({"question": f"{name.split('-')[0]} {number}", "answer": "x" * 400}) for number in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with HubServer(tmp_path) as running:
        running.add("org/rows", folder, kind="dataset", downloads=1234)
        running.add("org/closed", folder, kind="dataset", gated=True)
        running.add("org/mine", folder, kind="dataset", private=True)
        yield running


def test_only_as_much_is_fetched_as_is_needed(tmp_path: Path, hub: HubServer) -> None:
    (streamed,) = ask(tmp_path, hub.address, {"source": "org/rows", "samples": 100})
    assert (streamed["rows"], streamed["first"][0], streamed["pinned"]) == (100, "train 0", f"org/rows@{COMMIT}")
    assert streamed["notices"][0].startswith("org/rows: ")
    assert streamed["notices"][0].endswith("open, 1,234 downloads a month.")
    assert streamed["notes"] == ["The first 100 usable rows of org/rows (train) are used."]
    assert hub.sent < sum(file.stat().st_size for file in hub.datasets["org/rows"].files.folder.iterdir()) / 3


def bytes_of(hub: HubServer, name: str = "org/rows") -> int:
    return sum(file.stat().st_size for file in hub.datasets[name].files.folder.rglob("*.jsonl"))


def test_a_slice_is_streamed_too_and_not_from_a_folder_here_of_that_name(tmp_path: Path, hub: HubServer) -> None:
    (tmp_path / "org/rows").mkdir(parents=True)
    (tmp_path / "org/rows/train.jsonl").write_text('{"question": "private", "answer": "x"}\n' * 100)
    (sliced,) = ask(tmp_path, hub.address, {"source": f"org/rows@{COMMIT}", "split": "train[20:60]", "samples": 1000})
    assert (sliced["rows"], sliced["first"][0], sliced["last"]) == (40, "train 20", "train 59")
    assert hub.sent < bytes_of(hub) / 2, "one of eight files, read once for its columns and once for its rows"


def test_a_share_is_streamed_where_the_number_of_rows_is_told(tmp_path: Path, hub: HubServer) -> None:
    """24,000 rows are in the files; the card tells it, or does not."""
    (untold,) = ask(tmp_path, hub.address, {"source": "org/rows", "split": "train[:1%]", "samples": 1000})
    everything, hub.sent = hub.sent, 0
    assert everything > bytes_of(hub) * 0.9
    sizes = "dataset_info:\n  splits:\n  - name: train\n    num_examples: 24000\n  - name: test\n    num_examples: 50\n"
    (hub.datasets["org/rows"].files.folder / "README.md").write_text(f"---\n{sizes}---\n")
    (told,) = ask(tmp_path / "again", hub.address, {"source": "org/rows", "split": "train[:1%]", "samples": 1000})
    assert (told["rows"], told["first"], told["last"]) == (untold["rows"], untold["first"], untold["last"])
    assert told["rows"] == 240
    assert hub.sent < everything / 2


def test_configurations_and_files_of_a_hub_data_set_can_be_chosen(tmp_path: Path, hub: HubServer) -> None:
    folder = hub.datasets["org/rows"].files.folder
    for name in ("easy", "hard"):
        (folder / name).mkdir()
        lines = [json.dumps({"question": f"{name} {number}", "answer": "x"}) for number in range(20)]
        (folder / name / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    configs = [f"- config_name: {name}\n  data_files: {name}/train.jsonl\n" for name in ("easy", "hard")]
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    hard, streamed, file, sum_, unnamed, unknown = ask(
        tmp_path,
        hub.address,
        {"source": "org/rows", "config": "hard", "samples": None},
        {"source": "org/rows", "config": "hard", "samples": 5},
        {"source": "org/rows", "data_files": "test-*.jsonl", "samples": 10},
        {"source": "org/rows", "config": "easy", "split": "train[:5]+train[15:]", "samples": 100},
        {"source": "org/rows", "samples": 10},
        {"source": "org/rows", "config": "medium", "samples": 10},
    )
    assert (hard["rows"], hard["first"][0]) == (20, "hard 0")
    assert (streamed["rows"], streamed["first"][0]) == (5, "hard 0")
    assert (file["rows"], file["first"][0]) == (10, "test 0")
    assert (sum_["rows"], sum_["first"][0], sum_["last"]) == (10, "easy 0", "easy 19")
    for refused in (unnamed, unknown):
        assert all(word in refused["message"] for word in ("easy", "hard"))
        assert "--set dataset.config=NAME" in refused["hint"]


def test_rows_of_a_hub_are_pinned_and_refused_with_a_reason(tmp_path: Path, hub: HubServer) -> None:
    test, slice_, revision, split, missing, closed, mine = ask(
        tmp_path,
        hub.address,
        {"source": "org/rows", "split": "test", "samples": None},
        {"source": f"org/rows@{COMMIT}", "split": "test[:10%]"},
        {"source": "org/rows@dev"},
        {"source": "org/rows", "split": "validation"},
        {"source": "org/none"},
        {"source": "org/closed"},
        {"source": "org/mine"},
    )
    assert (test["rows"], test["first"][0]) == (50, "test 0")
    assert slice_["rows"] == 5
    assert revision["message"] == "The dataset org/rows has no revision 'dev'."
    assert "validation" in split["message"]
    assert "train" in split["message"]
    assert missing["error"] == closed["error"] == mine["error"] == "DatasetNotFound"
    assert "org/mine, or it is private" in mine["message"]
    assert "gated" in closed["message"]
    assert "hf auth login" in closed["hint"]


def test_what_not_everybody_can_read_is_known_as_such_also_from_the_cache_and_without_a_network(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(f'{{"question": "say {number}", "answer": "x"}}\n' for number in range(20)))
    with HubServer(tmp_path, tokens=ACCOUNTS) as hub:
        for name, closed in (("open", {}), ("gated", {"gated": True}), ("private", {"private": True})):
            hub.add(f"ada/{name}", folder, kind="dataset", **closed)
        specs = [{"source": f"ada/{name}"} for name in ("open", "gated", "private", "open", "private")]
        found = ask(tmp_path, hub.address, *specs, token=WRITES)
    assert [(answer["rows"], answer["restricted"]) for answer in found] == [(20, closed) for closed in (False, True, True, False, True)]
    (unasked,) = ask(tmp_path, "http://127.0.0.1:9", {"source": "ada/open"})
    assert (unasked["rows"], unasked["restricted"]) == (20, True)


def test_without_a_network_the_answer_is_quick_and_what_is_here_still_works(tmp_path: Path, hub: HubServer) -> None:
    (online,) = ask(tmp_path, hub.address, {"source": "org/rows", "split": "test", "samples": None})
    here, absent, pinned, moved = ask(
        tmp_path,
        "http://127.0.0.1:9",
        {"source": "org/rows", "split": "test", "samples": 20},
        {"source": "org/other", "samples": 20},
        {"source": f"org/rows@{COMMIT}", "split": "test", "samples": 20},
        {"source": f"org/rows@{'a' * 40}", "split": "test", "samples": 20},
    )
    assert (here["rows"], here["first"]) == (online["rows"], online["first"])
    assert here["pinned"] == online["pinned"] == f"org/rows@{COMMIT}", "the cache knows which commit it holds"
    assert absent["error"] == "DatasetNotFound"
    assert "org/other is not on this machine" in absent["message"]
    assert absent["seconds"] < 3
    assert pinned["pinned"] == f"org/rows@{COMMIT}"
    assert moved["error"] == "DatasetNotFound", "and not the rows of the commit that is here"
    assert f"only another commit of the dataset org/rows is on this machine: {COMMIT}" in moved["message"]


def test_rows_that_were_streamed_once_are_there_without_a_network_too(tmp_path: Path, hub: HubServer) -> None:
    spec = {"source": "org/rows", "samples": 20}
    (online,) = ask(tmp_path, hub.address, spec)
    named, pinned, more = ask(tmp_path, "http://127.0.0.1:9", spec, {**spec, "source": f"org/rows@{COMMIT}"}, {**spec, "samples": 30})
    for offline in (named, pinned):
        assert (offline["fingerprint"], offline["pinned"]) == (online["fingerprint"], f"org/rows@{COMMIT}")
    assert more["error"] == "DatasetNotFound"


@pytest.mark.parametrize(
    ("place", "fault", "said"),
    [
        ("info", 503, "org/rows could not be loaded from"),
        ("info", 429, "org/rows could not be loaded from"),
        ("info", "cut", "org/rows could not be loaded from"),
        ("info", 401, "does not accept your token"),
        ("resolve", "cut", "org/rows"),
    ],
)
def test_a_hub_that_fails_is_named_in_one_sentence(tmp_path: Path, hub: HubServer, place: str, fault: Any, said: str) -> None:
    if fault == "cut":
        hub.drop(place, after=1000)
    else:
        hub.refuse(place, fault, "Invalid credentials in Authorization header" if fault == 401 else "busy")
    (broken,) = ask(tmp_path, hub.address, {"source": "org/rows", "samples": 20})
    assert broken["error"] in ("DatasetError", "DatasetNotFound")
    assert said in broken["message"]
    assert broken["hint"]


def test_a_connection_that_is_cut_while_rows_are_streamed_is_made_again(tmp_path: Path, hub: HubServer) -> None:
    hub.drop("resolve", after=1000, times=2)
    (streamed,) = ask(tmp_path, hub.address, {"source": "org/rows", "samples": 20})
    assert (streamed["rows"], streamed["first"][0]) == (20, "train 0")
    assert hub.left("resolve") == 0
