"""`benchmarks/resumed.py` where a command fails or takes too long: it says so in its line, and leaves nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import resumed


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> resumed.Commands:
    monkeypatch.setenv("PYTHONPATH", "packages")
    shop: Any = SimpleNamespace(folder=tmp_path, runtime=SimpleNamespace(cache_dir=tmp_path / "cache"))
    return resumed.Commands(shop, "cpu", time.monotonic() + 60)


def test_packages_that_are_on_the_path_alone_are_there_for_the_commands(commands: resumed.Commands) -> None:
    assert commands.environment["PYTHONPATH"] == f"{resumed.ROOT}{os.pathsep}packages"


def test_a_command_that_fails_is_one_line_and_what_it_printed(commands: resumed.Commands, capfd: pytest.CaptureFixture[str]) -> None:
    commands.log.write_text("a long story\nThe file is missing.\nName another one.\n")
    with pytest.raises(RuntimeError, match="exit code 2: The file is missing"):
        commands.finish(subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"]))
    assert "a long story" in capfd.readouterr().err


def test_a_command_that_takes_too_long_is_ended_and_none_is_begun_after_it(commands: resumed.Commands) -> None:
    commands.log.write_text("step 7\n")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    commands.until = time.monotonic()
    with pytest.raises(TimeoutError, match="not done in time; its last words: step 7"):
        commands.finish(process)
    assert process.returncode is not None
    commands.until = 0.0
    with pytest.raises(TimeoutError, match="run was not begun in time"):
        commands.begin("run")


def test_an_error_of_one_run_is_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumed, "layer_of", lambda *_: 1 / 0)
    assert resumed.measured(tmp_path, "cpu", time.monotonic(), "lora") == (
        "| lora | failed: ZeroDivisionError: division by zero | | | | | |",
        False,
    )
