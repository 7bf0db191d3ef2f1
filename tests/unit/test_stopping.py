"""Signals that end a program: handled, left alone where they are ignored, and put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console
from written_run import written_run

from finetune.errors import Interrupted
from finetune.events import Fanout
from finetune.run.finetuner import LLMFineTuner
from finetune.run_folder import BENCHMARK, TRAINING
from finetune.screen.live_run import _carry_out, _stopped
from finetune.system.stopping import CTRL_C, ENDED, LOST, Ended, ended_like_ctrl_c, no_interrupt_lost, on_signals, until_ctrl_c


def test_every_signal_reaches_the_handler_and_is_put_back() -> None:
    numbers = (*CTRL_C, *ENDED, *LOST)
    before = [signal.getsignal(number) for number in numbers]
    heard: list[int] = []
    with on_signals(lambda number, frame: heard.append(number)):
        for number in numbers:
            os.kill(os.getpid(), number)
    assert heard == list(numbers)
    assert [signal.getsignal(number) for number in numbers] == before


def test_under_nohup_a_lost_connection_stays_without_effect() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_like_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lost_connection_interrupts_once_however_often_it_is_said() -> None:
    def lost_twice() -> None:
        with ended_like_ctrl_c():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGHUP)

    before = signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(KeyboardInterrupt):
            lost_twice()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [*CTRL_C, *ENDED])
def test_an_interrupt_that_a_library_swallows_is_raised_again(number: int) -> None:
    def imports(*, fails: bool) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            if fails:
                raise ImportError("Are the requirements defined correctly?") from error

    done: list[str] = []

    def work(*, fails: bool) -> None:
        with no_interrupt_lost() as check:
            imports(fails=fails)
            check()
            done.append("the next stage")

    kind = KeyboardInterrupt if number in CTRL_C else Ended
    for fails in (True, False):
        with pytest.raises(kind):
            work(fails=fails)
    assert done == []


def test_what_was_said_of_an_interrupt_is_not_lost() -> None:
    def uploads() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise Interrupted("The upload was stopped.") from None

    with pytest.raises(Interrupted, match="The upload was stopped"), no_interrupt_lost():
        uploads()


def test_without_an_interrupt_an_error_is_that_error() -> None:
    with pytest.raises(ImportError), no_interrupt_lost():
        raise ImportError("There is none.")


def test_what_ends_the_program_is_not_stopped_where_ctrl_c_is() -> None:
    with until_ctrl_c():
        signal.raise_signal(signal.SIGINT)
    for number in (*ENDED, *LOST):
        before = signal.getsignal(number)
        try:
            with pytest.raises(Ended), ended_like_ctrl_c(), until_ctrl_c():
                signal.raise_signal(number)
        finally:
            signal.signal(number, before)


def test_other_threads_leave_signals_alone() -> None:
    def other() -> None:
        with on_signals(lambda number, frame: None):
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_signal_after_the_end_of_a_run_costs_nothing_of_it(tmp_path: Path) -> None:
    folder = written_run(tmp_path / "done")
    said = _stopped(folder, new=True, known=True)
    assert "is finished" in said.message
    assert said.saved == folder.output_dir
    assert folder.benchmark.is_file()


def test_a_signal_before_the_first_step_leaves_no_empty_run(tmp_path: Path) -> None:
    folder = written_run(tmp_path / "begun")
    folder.write_stage(TRAINING)
    folder.claim()
    folder.release()
    assert _stopped(folder, new=True, known=False).message == "Stopped before anything was trained."
    assert not folder.output_dir.exists()


@pytest.mark.parametrize(("stage", "said"), [(TRAINING, None), (BENCHMARK, "trained; benchmark not run yet")])
def test_an_error_that_nobody_foresaw_names_the_command_that_goes_on_from_what_is_saved(
    stage: str, said: str | None, tmp_path: Path
) -> None:
    folder = written_run(tmp_path / "begun")
    folder.write_stage(stage)
    folder.claim()
    folder.release()
    command = f"finetune-cli resume {folder.output_dir}"

    def breaks(_: object) -> LLMFineTuner:
        tuner: Any = SimpleNamespace(folder=folder, reporter=Fanout(), run=lambda: 1 / 0)
        return cast(LLMFineTuner, tuner)

    with pytest.raises(ZeroDivisionError) as raised:
        _carry_out(folder, breaks, Console(quiet=True), False, show_plan=True)
    assert getattr(raised.value, "__notes__", []) == ([f"{folder.output_dir}: {said}. Continue: {command}"] if said else [])


def test_windows_has_no_sighup() -> None:
    code = "import signal; del signal.SIGHUP; from finetune.system import stopping; print(stopping.LOST)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout == "()\n"
