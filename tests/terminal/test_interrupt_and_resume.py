"""Ctrl-C once and twice on a real terminal, what is said, and going on: by command, and from the wizard."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from lengths import few
from screen import CTRL_C, ENTER, Terminal

from finetune.training.checkpoints import Checkpoints

RUN_SECONDS = 120
RECIPE = """model: ./pico
dataset: {{source: rows.jsonl, samples: null}}
training: {{epochs: {epochs}, batch_size: 3, save_every: {every}}}
benchmark: {{rows: 2, max_new_tokens: 2}}
"""


def recipe(workplace: Path, *, epochs: int, every: int | str = "auto") -> None:
    (workplace / "recipe.yaml").write_text(RECIPE.format(epochs=epochs, every=every))


def saved_steps(workplace: Path) -> list[int]:
    return [checkpoint.step for checkpoint in Checkpoints(workplace / "finetuned_model" / "run" / "checkpoints").all()]


def training(terminal: Terminal) -> None:
    terminal.wait_for("step ", RUN_SECONDS)


@pytest.mark.parametrize("by", few(["Ctrl-C", "SIGTERM"], "Ctrl-C"))
def test_once_saves_says_how_to_go_on_and_going_on_reaches_the_end(by: str, workplace: Path) -> None:
    recipe(workplace, epochs=12)
    with Terminal(["run", "recipe.yaml"], folder=workplace) as terminal:
        training(terminal)
        if by == "Ctrl-C":
            terminal.press(CTRL_C)
        else:
            terminal.signal(signal.SIGTERM)
        assert terminal.wait_for_end(RUN_SECONDS) == 130
        words = terminal.text().replace("\n", "")
        assert "Stopped after step" in words
        assert "finetune_cli.pyresumefinetuned_model" in "".join(words.split())
        assert "Traceback" not in words
    (newest, *_) = saved_steps(workplace)
    with Terminal(["resume", "finetuned_model"], folder=workplace) as terminal:
        terminal.wait_for("Continuing ", RUN_SECONDS)
        terminal.wait_for(" held-out rows\n", RUN_SECONDS)
        assert terminal.wait_for_end() == 0
        assert f"after step {newest} of" in terminal.text().replace("\n", " ")
    assert json.loads((workplace / "finetuned_model" / "run" / "progress.json").read_text())["stage"] == "finished"


def test_twice_stops_at_once_and_what_was_saved_stays(workplace: Path) -> None:
    """What follows the second step takes ten minutes, so that only the second Ctrl-C can have ended it."""
    recipe(workplace, epochs=1, every=1)
    (workplace / "slow").mkdir()
    (workplace / "slow" / "sitecustomize.py").write_text(SLOW_AFTER_TWO)
    with Terminal(
        ["run", "recipe.yaml"], folder=workplace, env={"PYTHONPATH": f"{workplace / 'slow'}:{Path(__file__).parents[2]}"}, fresh=True
    ) as terminal:
        until = time.monotonic() + RUN_SECONDS
        while not (workplace / "slow" / "asleep").exists():
            terminal.read()
            assert time.monotonic() < until
        terminal.press(CTRL_C)
        terminal.wait_for("Press Ctrl-C again")
        terminal.read(0.5)
        terminal.press(CTRL_C)
        assert terminal.wait_for_end(RUN_SECONDS) == 130
        words = " ".join(terminal.text().split())
        assert "step 2 of" in words
        assert "resume" in words
        assert "Traceback" not in words
    problems: list[str] = []
    kept = Checkpoints(workplace / "finetuned_model" / "run" / "checkpoints").newest(problems.append)
    assert kept is not None
    assert (kept.step, problems) == (2, [])


SLOW_AFTER_TWO = '''
import builtins, pathlib, sys, time

def slow(event, arguments):
    """The first record after the checkpoint of the second step takes ten minutes."""
    if event == "os.rename" and str(arguments[1]).endswith("step-00000002"):
        sys.slow_soon = True
    elif event == "open" and getattr(sys, "slow_soon", False) and "events.jsonl" in str(arguments[0]):
        sys.slow_soon = False
        pathlib.Path(__file__).with_name("asleep").touch()
        time.sleep(600)

sys.addaudithook(slow)
'''


def test_the_wizard_offers_the_unfinished_run_first(workplace: Path) -> None:
    recipe(workplace, epochs=12)
    with Terminal(["run", "recipe.yaml"], folder=workplace) as terminal:
        training(terminal)
        terminal.press(CTRL_C)
        assert terminal.wait_for_end(RUN_SECONDS) == 130
    with Terminal(folder=workplace) as terminal:
        terminal.wait_for("There is an unfinished run here.")
        terminal.wait_for("Continue finetuned_model")
        terminal.wait_for("saved less than a minute ago")
        terminal.press(ENTER)
        terminal.wait_for("STEP 6", RUN_SECONDS)
        assert terminal.wait_for_end() == 0
    with Terminal(folder=workplace) as terminal:
        terminal.wait_for("What would")
        assert "unfinished" not in terminal.text()
