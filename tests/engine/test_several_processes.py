"""Several processes make the run of one; and what happens when one of them dies, has no memory left or is told to stop."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from forks import HANGS, Forks, job, log
from several_processes import TOLERANCE, compare, events_of, layer_of
from workshop import StopAt, Workshop

from finetune import LLMFineTuner, Recipe
from finetune.engines.agent import OnThisMachine
from finetune.engines.torchrun import why
from finetune.errors import Interrupted
from finetune.events import read_events
from finetune.run_folder import RunFolder
from finetune.training.checkpoints import Checkpoints
from finetune.training.parallel.processes import GONE, Processes, Share, is_gone
from finetune.training.saved_tensors import in_parts

LONG = {"epochs": 200, "batch_size": 6, "learning_rate": 0.001, "save_every": 1}


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, shop: Workshop) -> dict[str, Any]:
    """A run of one process."""
    layer = layer_of(shop, "lora")
    assert forks.run(job(shop, layer)) == 0, log(shop)
    return layer


def saved_steps(layer: dict[str, Any]) -> list[int]:
    return [each.step for each in Checkpoints(Path(layer["output_dir"]) / "run" / "checkpoints").all()]


def told(layer: dict[str, Any], event: str) -> list[dict[str, Any]]:
    return [record for record in read_events(events_of(layer)) if record["event"] == event]


# The other cases take minutes: benchmarks/processes.py.
@pytest.mark.parametrize("name", ["hidden cache", "teachers of rows", "adalora", "few bits"])
def test_two_processes_make_the_run_of_one(name: str, forks: Forks, shop: Workshop) -> None:
    layers = [layer_of(shop, name), layer_of(shop, name)]
    for processes, layer in enumerate(layers, 1):
        assert forks.run(job(shop, layer, processes=processes, scored=True)) == 0, log(shop)
    found = compare(*layers)
    assert found.loss <= TOLERANCE
    assert found.weight <= TOLERANCE
    assert found.score is not None
    assert found.score <= TOLERANCE
    one, two = (told(layer, "training")[0] for layer in layers)
    for total in ("steps", "real_tokens", "supervised_tokens", "parameters"):
        assert one[total] == two[total]
    assert not (Path(layers[1]["output_dir"]) / "run" / "workers").exists()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("rows", "batch", "accumulation"), [(24, 2, 2), (25, 2, 2), (23, 3, 1), (1, 2, 1), (13, 1, 3)])
def test_every_row_is_used_once_an_epoch(rows: int, batch: int, accumulation: int, size: int) -> None:
    shares = [Share(range(rows), rows, batch, accumulation, Processes(size, rank)) for rank in range(size)]
    batches = [list(share) for share in shares]
    assert {len(each) for each in batches} == {len(share) for share in shares}, "all make the same number of batches"
    assert len({len(each) for each in batches}) == 1
    assert Counter(row for each in batches for made in each for row in made) == Counter(range(rows))
    for step in range(len(shares[0]) // accumulation):
        made = [row for each in batches for part in each[step * accumulation : (step + 1) * accumulation] for row in part]
        first = step * batch * accumulation * size
        assert sorted(made) == list(range(first, min(rows, first + batch * accumulation * size))), "a step has the rows of one process's"


def test_with_dropout_processes_draw_one_order_and_numbers_of_their_own(forks: Forks, shop: Workshop) -> None:
    layers = [{**layer_of(shop, "three epochs"), "method": {"kind": "lora", "dropout": 0.5}} for _ in range(2)]
    assert forks.run(job(shop, layers[0], processes=2, rows=str(shop.folder / "rows-used"))) == 0, log(shop)
    used = [Counter((shop.folder / f"rows-used-{rank}").read_text().split()) for rank in range(2)]
    assert set((used[0] + used[1]).values()) == {3}, "three epochs, every row once in each"
    assert len(used[0] + used[1]) == 24
    layers[1]["training"]["save_every"] = 1
    assert forks.run(job(shop, layers[1], processes=2, **{"break": "killed"})) == 1
    assert forks.run(job(shop, layers[1], processes=2)) == 0, log(shop)
    found = compare(*layers)
    assert found.loss == found.weight == 0, "each went on with the numbers that it would have drawn"


def test_a_worker_that_is_killed_ends_the_run_and_any_number_of_others_goes_on(
    forks: Forks, shop: Workshop, undisturbed: dict[str, Any]
) -> None:
    layer = layer_of(shop, "lora")
    layer["training"]["save_every"] = 1
    assert forks.run(job(shop, layer, processes=2, **{"break": "killed"})) == 1
    assert "TrainingError: Training process 1 was ended by SIGKILL." in log(shop)
    assert "finetune-cli resume" in log(shop)
    assert saved_steps(layer)[0] == 2
    assert forks.run(job(shop, layer)) == 0, log(shop)
    found = compare(undisturbed, layer)
    assert max(found.loss, found.weight) <= TOLERANCE, "begun by two processes, ended by one"


def test_two_processes_go_on_where_one_stopped(forks: Forks, shop: Workshop, undisturbed: dict[str, Any]) -> None:
    layer = layer_of(shop, "lora")
    tuner = shop.tuner(layer)
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted, match="of 8"):
        tuner.train()
    assert forks.run(job(shop, layer, processes=2)) == 0, log(shop)
    found = compare(undisturbed, layer)
    assert max(found.loss, found.weight) <= TOLERANCE
    said = [record["text"] for record in told(layer, "notice")]
    assert "2 processes train, each on its share of every step's rows." in said


def test_a_worker_without_memory_makes_its_share_in_parts_or_ends_the_run(
    forks: Forks, shop: Workshop, undisturbed: dict[str, Any]
) -> None:
    some, none = layer_of(shop, "lora"), layer_of(shop, "lora")
    assert forks.run(job(shop, some, processes=2, **{"break": "memory"})) == 0, log(shop)
    found = compare(undisturbed, some)
    assert max(found.loss, found.weight) <= TOLERANCE
    warnings = [record["text"] for record in told(some, "notice") if record["level"] == "warning"]
    assert any(text.startswith("Process 1: Step 3 ran out of memory with 3 rows at a time; it continues with 1") for text in warnings)
    none["training"]["activation_checkpointing"] = False
    assert forks.run(job(shop, none, processes=2, **{"break": "no memory"})) == 1
    assert "OutOfMemory: Even one row at a time does not fit into memory." in log(shop)


def test_nonsense_in_one_share_stops_all_of_them_before_it_reaches_the_weights(forks: Forks, shop: Workshop) -> None:
    layer = layer_of(shop, "lora")
    assert forks.run(job(shop, layer, processes=2, **{"break": "nonsense"})) == 1
    said = re.search(
        r"Diverged: The loss is nan at step 3, rows ([\d, ]+) of the training set. The state after step 2 is saved.", log(shop)
    )
    assert said, log(shop)
    assert len(said[1].split(",")) == 6, "those of both shares"
    assert saved_steps(layer) == [2]


def begun(forks: Forks, shop: Workshop, layer: dict[str, Any], shard: str = "no") -> Any:
    """A run of two processes that has trained for three steps."""
    child = forks.start(job(shop, layer, processes=2, shard=shard))
    ends = time.monotonic() + 60
    while len(saved_steps(layer)) < 2 and time.monotonic() < ends:
        time.sleep(0.05)
    return child


@pytest.mark.parametrize("shard", ["no", "yes"])
def test_ctrl_c_saves_and_a_second_one_ends_everything_at_once(shard: str, forks: Forks, shop: Workshop) -> None:
    once, twice = ({**layer_of(shop, "lora"), "training": LONG} for _ in range(2))
    child = begun(forks, shop, once, shard)
    child.send_signal(signal.SIGINT)
    assert child.wait(HANGS) == 130, log(shop)
    step = told(once, "training")[0]["steps"]
    assert saved_steps(once)[0] == step == told(once, "step")[-1]["step"]
    assert f"Interrupted: Stopped after step {step} of 800" in log(shop)
    newest = Checkpoints(Path(once["output_dir"]) / "run" / "checkpoints").newest(pytest.fail)
    assert newest is not None
    assert in_parts(newest.folder) is (shard == "yes")

    child = begun(forks, shop, twice, shard)
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) == 3
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGTERM)
    child.wait(HANGS)
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    assert saved_steps(twice)


def test_workers_end_with_a_parent_that_is_killed(forks: Forks, shop: Workshop) -> None:
    child = begun(forks, shop, {**layer_of(shop, "lora"), "training": LONG})
    workers = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait(HANGS)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


ENDED = {"what": "ended", "name": "process", "at": 3.0}
LEFT = {"what": "error", "name": "TrainingError", "at": 2.0, "facts": {"message": GONE, "hint": None}}
FAILED = {"what": "error", "name": "TrainingError", "at": 1.0, "facts": {"message": "Training failed: no such kernel", "hint": None}}


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([("0", LEFT), ("launcher", {**ENDED, "facts": {"rank": 0, "code": 1}})], GONE),
        ([("0", LEFT), ("1", FAILED), ("launcher", {**ENDED, "facts": {"rank": 0, "code": 1}})], "Training failed: no such kernel"),
        ([("0", LEFT), ("launcher", {**ENDED, "facts": {"rank": 1, "code": -9}})], "Training process 1 was ended by SIGKILL."),
        ([("0", LEFT), ("launcher", {**ENDED, "facts": {"rank": 1, "code": 3}})], "Training failed: process 1 ended with exit code 3."),
        ([("launcher", {**ENDED, "facts": {"rank": 1, "code": -15}})], "Training process 1 was ended by SIGTERM."),
        ([], "Training failed: the launcher was ended by SIGTERM."),
    ],
    ids=["on another node", "by an error", "by the system", "otherwise", "by somebody", "with their launcher"],
)
def test_what_ended_a_training_is_its_cause_and_not_that_the_others_were_left(
    failures: list[tuple[str, dict[str, Any]]], expected: str, tmp_path: Path
) -> None:
    found = why(failures, RunFolder(tmp_path), code=1 if failures else -15)
    assert found.message.startswith(expected)
    assert expected.startswith("Training failed: no") or "finetune-cli resume" in str(found.hint)
    assert "checkpoint is kept" not in str(found.hint), "there is none"


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]: Connection reset by peer"), True),
        (torch.distributed.DistNetworkError("failed to recv"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_it_is_known_when_another_process_is_gone(error: RuntimeError, gone: bool) -> None:
    assert is_gone(error) is gone


def test_workers_of_one_machine_meet_where_no_other_machine_reaches_them() -> None:
    met = OnThisMachine("127.0.0.1", 0, 0, 1, "a run", 10).next_rendezvous()
    met.store.set("a", "b")
    assert met.store.get("a") == b"b"
    port = met.bootstrap_store_info.master_port
    heard = [each.laddr.ip for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port]
    assert heard == ["127.0.0.1"]


@pytest.mark.slow
def test_torchs_own_launcher_starts_the_workers(
    shop: Workshop, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One, which shows as much as two: the launcher, the worker as a program, and what the parent hears of them."""
    layer = layer_of(shop, "lora")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    runtime = replace(shop.runtime, processes=1, engine="torchrun")
    LLMFineTuner(Recipe.from_layers(layer), runtime=runtime).train()
    found = compare(undisturbed, layer)
    assert max(found.loss, found.weight) <= TOLERANCE
    assert "A process trains." in [each["text"] for each in told(layer, "notice")]
    assert not list(tmp_path.iterdir()), "no folder of the launcher is left"
