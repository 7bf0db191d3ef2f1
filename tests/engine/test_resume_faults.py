"""Real faults: SIGKILL at random moments and inside writes, a full disk, two runs at once; what is resumed ends bit for bit alike."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from forks import HANGS, Forks, job, log
from lengths import few
from pico import pico, pico_rows
from workshop import Workshop

from finetune import LLMFineTuner
from finetune.distillation.caches.builder import build_cache, supervised_counts
from finetune.errors import FolderInUse
from finetune.events import read_events
from finetune.training.checkpoints import Checkpoints

KILLS_IN_A_ROW = 6
TRAINING = {"epochs": 3, "batch_size": 3, "gradient_accumulation": 2, "learning_rate": 0.01, "save_every": 1}


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, shop: Workshop) -> dict[str, Any]:
    layer = shop.layer(training=TRAINING)
    assert forks.run(job(shop, layer)) == 0, log(shop)
    return layer


def weights(layer: dict[str, Any]) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted(Path(layer["output_dir"]).glob("*.safetensors"))}
    assert found
    return found


def checkpoints(layer: dict[str, Any]) -> Checkpoints:
    return Checkpoints(Path(layer["output_dir"]) / "run" / "checkpoints")


def totals(layer: dict[str, Any]) -> dict[str, Any]:
    """What the training counted, times and memory aside."""
    events = read_events(Path(layer["output_dir"]) / "run" / "events.jsonl")
    finished = [record for record in events if record["event"] == "training"][-1]
    return {key: finished[key] for key in ("steps", "real_tokens", "supervised_tokens", "first_loss", "final_loss")}


def reported_steps(layer: dict[str, Any]) -> list[tuple[int, float]]:
    events = read_events(Path(layer["output_dir"]) / "run" / "events.jsonl")
    return [(event["step"], event["loss"]) for event in events if event["event"] == "step"]


def killed_until_done(
    forks: Forks, shop: Workshop, layer: dict[str, Any], chance: random.Random, *, seconds: float, operations: int, most: int, **more: Any
) -> int:
    """Start, kill and resume one run until it is trained; how often it was killed."""
    for kills in range(most):
        if chance.random() < 0.5:
            status = forks.run(job(shop, layer, kill_at=chance.randint(1, operations), **more))
        else:
            status = forks.run(job(shop, layer, **more), kill_after=chance.uniform(0.05, seconds))
        if status != -9:
            assert status == 0, log(shop)
            return kills
    assert forks.run(job(shop, layer, **more)) == 0, log(shop)
    return most


def measured(forks: Forks, shop: Workshop, layer: dict[str, Any]) -> tuple[float, int]:
    """How long a run takes, and how many file operations."""
    began = time.perf_counter()
    assert forks.run(job(shop, layer)) == 0, log(shop)
    counted = re.search(r"file operations: (\d+)", log(shop))
    assert counted
    return time.perf_counter() - began, int(counted[1])


@pytest.mark.parametrize("often", few([3, 12], 3))
def test_kills_at_random_moments_change_not_one_bit_of_the_result(
    often: int, forks: Forks, shop: Workshop, undisturbed: dict[str, Any]
) -> None:
    seconds, operations = measured(forks, shop, shop.layer(training=TRAINING))
    chance = random.Random(often)
    kills, runs = 0, 0
    while kills < often:
        layer, most = shop.layer(training=TRAINING), min(KILLS_IN_A_ROW, often - kills)
        empty = {"cache": str(shop.folder / "empty-cache")} if not runs else {}  # once while the rows are still to be tokenised
        kills += killed_until_done(forks, shop, layer, chance, seconds=seconds, operations=operations, most=most, **empty)
        runs += 1
        assert weights(layer) == weights(undisturbed)
        assert totals(layer) == totals(undisturbed)
        assert reported_steps(layer) == reported_steps(undisturbed), "each step once, however often it was made"
        run = Path(layer["output_dir"]) / "run"
        assert not list(run.rglob("*.part*")), "no half-written file is left"
        assert not (run / "checkpoints").exists(), "a run that reached its end needs them no more"


def test_a_killed_distillation_goes_on_to_the_same_student(forks: Forks, shop: Workshop) -> None:
    whole = shop.distilling(training=TRAINING)
    _, operations = measured(forks, shop, whole)
    layer = shop.distilling(training=TRAINING)
    for _ in range(3):
        assert forks.run(job(shop, layer, kill_at=operations // 4)) == -9, log(shop)
    assert forks.run(job(shop, layer)) == 0, log(shop)
    assert weights(layer) == weights(whole)
    assert totals(layer) == totals(whole)


@pytest.mark.parametrize("kill_at", [3, 12, 20])
def test_a_teacher_killed_while_its_answers_are_written_goes_on_behind_the_last_whole_shard(
    kill_at: int, forks: Forks, shop: Workshop, tmp_path: Path
) -> None:
    folder, rows, teacher = tmp_path / "teacher", pico_rows(30), pico("llama", seed=1)
    asked = {"what": "ask_teacher", "folder": str(folder), "kill_at": kill_at, "log": str(tmp_path / "log.txt")}
    assert forks.run(asked) == -9
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.safetensors")}
    finished = sorted(kept)[: (kill_at - 2) // 4]  # the head, then for each shard itself and the index: a sync and a name
    cache = build_cache("hidden", teacher, rows, folder, shard_bytes=2000)
    assert {path: path.stat().st_mtime_ns for path in finished} == {path: kept[path] for path in finished}
    whole = build_cache("hidden", teacher, rows, tmp_path / "whole", shard_bytes=2000)
    counts = supervised_counts(rows)
    assert torch.equal(cache.read(range(30), counts)[0], whole.read(range(30), counts)[0])


def test_a_second_run_in_the_same_folder_is_refused_and_told_who_is_there(forks: Forks, shop: Workshop) -> None:
    layer = shop.layer(training={**TRAINING, "epochs": 2000})
    child = forks.start(job(shop, layer))
    try:
        run = Path(layer["output_dir"]) / "run"
        wait_for(lambda: bool(checkpoints(layer).all()))
        before = (run / "recipe.yaml").read_text()
        for second in (lambda: shop.tuner(layer).run(), lambda: LLMFineTuner.unfinished(layer["output_dir"], runtime=shop.runtime).run()):
            with pytest.raises(FolderInUse, match=f"process {child.pid} on") as refused:
                second()
            assert refused.value.exit_code == 2
        assert (run / "recipe.yaml").read_text() == before
    finally:
        child.kill()
        assert child.wait(HANGS) == -9
    assert LLMFineTuner.unfinished(layer["output_dir"], runtime=shop.runtime).resume_state, "a lock ends with its process"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two and a half megabytes, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2560k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_fills_up_costs_no_work(forks: Forks, shop: Workshop, small_disk: Path) -> None:
    training = {**TRAINING, "epochs": 20}
    whole, layer = shop.layer(training=training), shop.layer(training=training, output_dir=str(small_disk / "model"))
    assert forks.run(job(shop, whole)) == 0, log(shop)
    child = forks.start(job(shop, layer))
    wait_for(lambda: len(checkpoints(layer).all()) >= 2)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            fill(ballast)
            time.sleep(0.002)  # the run needs the processor too
    assert child.wait(HANGS) == 1, log(shop)
    assert "DiskFull: The checkpoint of step" in log(shop)
    assert re.search(r"needs about \d+ kB, and \d+ kB is free", log(shop))
    assert "resume" in log(shop)
    problems: list[str] = []
    kept = checkpoints(layer).newest(problems.append)
    assert kept is not None
    assert not problems
    assert 0 < kept.step < totals(whole)["steps"]
    os.remove(small_disk / "ballast")
    assert forks.run(job(shop, layer)) == 0, log(shop)
    assert weights(layer) == weights(whole)


def fill(ballast: Any) -> None:
    """Every byte that is free."""
    size = 65536
    while size:
        try:
            ballast.write(b"0" * size)
        except OSError:
            size //= 2


def test_a_file_that_cannot_grow_is_a_full_disk_too(forks: Forks, shop: Workshop, undisturbed: dict[str, Any]) -> None:
    layer = shop.layer(training=TRAINING)
    assert forks.run(job(shop, layer, largest_file=60_000)) == 1, log(shop)
    assert "DiskFull: The checkpoint of step 1 did not fit" in log(shop)
    assert not checkpoints(layer).all()
    assert forks.run(job(shop, layer)) == 0, log(shop)
    assert weights(layer) == weights(undisturbed)


def test_too_little_room_is_said_before_the_first_step(forks: Forks, shop: Workshop, small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        ballast.write(b"0" * 2_200_000)
    layer = shop.layer(training=TRAINING, output_dir=str(small_disk / "model"))
    assert forks.run(job(shop, layer)) == 1, log(shop)
    assert "DiskFull: Saving this run's checkpoints needs" in log(shop)
    assert not checkpoints(layer).all()


def wait_for(condition: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
