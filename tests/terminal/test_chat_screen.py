"""A talk on a real terminal: alone, and beside the model it came from."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import warm
from screen import ENTER, Terminal, environment

from finetune.recipe import Recipe

LOADING = 60  # seconds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("talks")
    folder = place / "tuned_model"
    from finished_run import base_folder, finished_run

    base = base_folder(place / "base_model")
    finished_run(folder, base, Recipe.from_layers({"model": str(base)}))
    return folder


@pytest.mark.parametrize(("columns", "heads"), [(80, ["base", "tuned"]), (40, ["base"])])
def test_both_answer_side_by_side_where_there_is_room(run: Path, columns: int, heads: list[str]) -> None:
    with Terminal(["chat", run.name, "--both"], folder=run.parent, columns=columns) as terminal:
        terminal.wait_for("Type a message", LOADING)
        terminal.press("who?", ENTER)
        terminal.wait_for("tuned", LOADING)
        assert heads in [line.split() for line in terminal.lines()]
        terminal.press("/exit", ENTER)
        assert terminal.wait_for_end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_ends_the_talk_in_order(run: Path, number: int) -> None:
    with Terminal(["chat", run.name], folder=run.parent) as terminal:
        terminal.wait_for("Type a message", LOADING)
        terminal.settle()
        terminal.signal(number)
        assert terminal.wait_for_end() == 130
        assert "Cancelled." in terminal.text()
        assert "Traceback" not in terminal.text()
        assert terminal.echoes()


def test_bytes_that_are_no_text_do_not_end_a_talk(run: Path) -> None:
    done = warm.run(["chat", run.name, "--device", "cpu"], run.parent, environment(), typed=b"who \xff?\nand\n", timeout=LOADING)
    assert (done.returncode, "Error" in done.stderr) == (0, False)
    assert done.stdout.count("\n") > 2


@pytest.mark.parametrize("columns", [80, 40])
def test_commands_are_explained_and_a_wrong_one_is_not_asked_of_the_model(run: Path, columns: int) -> None:
    (run / "run" / "data_report.json").write_text('{"format": "question_answer"}')
    with Terminal(["chat", run.name], folder=run.parent, columns=columns) as terminal:
        terminal.wait_for("Type a message", LOADING)
        words = " ".join(terminal.text().split())
        assert "so it sees each message alone. /remember shows it the earlier ones too." in words
        terminal.press("/rest", ENTER)
        terminal.wait_for("There is no command /rest")
        terminal.press("/help", ENTER)
        terminal.wait_for("/remember  ")
        terminal.wait_for("end the chat")
        assert all(len(line) <= columns for line in terminal.lines())
        terminal.press("/exit", ENTER)
        assert terminal.wait_for_end() == 0
