"""The table of `benchmarks/gpu.py` ends in time, whatever its parts do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from unittest.mock import Mock

import pytest
from safetensors import SafetensorError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from timed_parts import Part, Table


def failing() -> None:
    raise RuntimeError("no such kernel\nand a long story")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no alarm signal")
def test_a_part_that_fails_or_takes_too_long_is_one_line_and_the_rest_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(None, seconds=float("inf"))
    done: list[str] = []
    parts = [Part("bad", failing), Part("slow", lambda: time.sleep(600), 1.0)]
    kinds = [CalledProcessError(1, "gcc"), ZeroDivisionError("by zero"), SafetensorError("no header"), MemoryError("no room")]
    parts += [Part(type(error).__name__, Mock(side_effect=error)) for error in kinds]
    parts.append(Part("good", lambda: done.append("good")))
    table.section("all", iter(parts))
    said = capsys.readouterr().out.splitlines()
    assert [line.removesuffix(" |").partition(", at ")[0] for line in said[:2]] == [
        "| all | bad | failed RuntimeError: no such kernel",
        "| all | slow | failed TimeoutError: not done after 1 s",
    ]
    assert [line.split(" | ")[1] for line in said[2:]] == [type(error).__name__ for error in kinds]
    assert (done, table.failed, table.missing) == (["good"], True, [])


def test_no_part_begins_after_the_time_and_what_is_missing_is_known() -> None:
    table, begun = Table(None, seconds=0.0), list[str]()

    def parts() -> Iterator[Part]:
        yield Part("one", lambda: begun.append("one"))
        yield Part("two", lambda: begun.append("two"))

    table.section("late", parts())
    assert (begun, table.missing, table.failed) == ([], ["late: one", "late: two"], False)


def test_a_section_that_cannot_begin_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def parts() -> Iterator[Part]:
        failing()
        yield Part("never", failing)

    table = Table(None, seconds=float("inf"))
    table.section("broken", parts())
    assert "| broken | its parts | failed RuntimeError: no such kernel" in capsys.readouterr().out
