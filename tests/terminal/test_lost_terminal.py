"""A terminal that is closed while a run goes on, and output that nobody takes any more."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from lengths import few
from screen import Terminal, environment

from finetune.training.checkpoints import Checkpoints

RUN_SECONDS = 120
RECIPE = """model: ./pico
dataset: {{source: rows.jsonl, samples: null}}
training: {{epochs: {epochs}, batch_size: 3, save_every: 1000000}}
benchmark: {{rows: 2, max_new_tokens: 2}}
"""
RUN = ["run", "recipe.yaml", "--device", "cpu"]


def records(workplace: Path) -> Path:
    return workplace / "finetuned_model" / "run"


def stage(workplace: Path) -> str:
    try:
        return str(json.loads((records(workplace) / "progress.json").read_text())["stage"])
    except OSError:
        return "not begun"


def wait_for_steps(workplace: Path, meanwhile: Callable[[], object] = lambda: time.sleep(0.05)) -> None:
    """Until the training has made steps."""
    events, ends = records(workplace) / "events.jsonl", time.monotonic() + RUN_SECONDS
    while not (events.is_file() and '"step"' in events.read_text(encoding="utf-8")):
        assert time.monotonic() < ends, f"the run is at {stage(workplace)}"
        meanwhile()


@pytest.mark.parametrize("nohup", few([False, True], False), ids=["hung up", "under nohup"])
def test_a_terminal_that_closes_costs_no_work(workplace: Path, nohup: bool) -> None:
    (workplace / "recipe.yaml").write_text(RECIPE.format(epochs=6 if nohup else 400))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN) if nohup else None  # a program that is started inherits it
    try:
        terminal = Terminal(RUN, folder=workplace, fresh=nohup)
    finally:
        if nohup:
            signal.signal(signal.SIGHUP, before)
    with terminal:
        wait_for_steps(workplace, terminal.read)  # a screen that nobody reads fills up
        code = terminal.hang_up()
    if nohup:
        assert (code, stage(workplace)) == (0, "finished")
    else:
        assert code == 130
        assert [checkpoint.step for checkpoint in Checkpoints(records(workplace) / "checkpoints").all()], "the step is saved"


def test_sighup_without_a_terminal_saves_however_often_it_comes(workplace: Path) -> None:
    (workplace / "recipe.yaml").write_text(RECIPE.format(epochs=400))
    with open(os.devnull, "w+") as nobody, (workplace / "said").open("w+") as said:
        process = warm.start(RUN, workplace, environment(), nobody.fileno(), nobody.fileno(), said.fileno())
        wait_for_steps(workplace)
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        assert process.wait(RUN_SECONDS) == 130
    assert "Stopped after step" in (workplace / "said").read_text()
    assert Checkpoints(records(workplace) / "checkpoints").all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("arguments", [[], ["--plain"]], ids=["drawn", "plain"])
def test_a_question_ends_as_by_ctrl_c(workplace: Path, number: int, arguments: list[str]) -> None:
    with Terminal(arguments, folder=workplace) as terminal:
        terminal.wait_for("What would")
        terminal.signal(number)
        assert terminal.wait_for_end() == 130
        assert "Cancelled; nothing written." in terminal.text()
        assert "Traceback" not in terminal.text()
        assert terminal.echoes()


def test_a_terminal_that_closes_at_a_question_ends_the_program(workplace: Path) -> None:
    before = sorted(workplace.iterdir())
    with Terminal(folder=workplace) as terminal:
        terminal.wait_for("What would")
        assert terminal.hang_up() == 130
    assert sorted(workplace.iterdir()) == before


def test_a_reader_that_leaves_ends_no_run(workplace: Path) -> None:
    (workplace / "recipe.yaml").write_text(RECIPE.format(epochs=2))
    reads, writes = os.pipe()
    with open(os.devnull) as nobody:
        process = warm.start(RUN, workplace, environment(), nobody.fileno(), writes, writes)
    os.close(writes)
    assert os.read(reads, 1)
    os.close(reads)
    assert (process.wait(RUN_SECONDS), stage(workplace)) == (0, "finished")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_the_output_ends_no_run(workplace: Path) -> None:
    (workplace / "recipe.yaml").write_text(RECIPE.format(epochs=2))
    with open("/dev/full", "w") as full, open(os.devnull) as nobody:
        process = warm.start(RUN, workplace, environment(), nobody.fileno(), full.fileno(), full.fileno())
        assert (process.wait(RUN_SECONDS), stage(workplace)) == (0, "finished")
