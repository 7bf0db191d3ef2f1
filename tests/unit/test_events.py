"""Reporters that fail: the others hear on, and whoever reports never learns of it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import BadInput
from finetune.events import Event, Fanout, JsonLines, Notice, Recorder, read_events


class Failing:
    """Raises what it is given at every event."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.asked = error, 0

    def report(self, event: Event) -> None:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "lost"), OSError(errno.ENOSPC, "full")], ids=repr)
def test_after_the_first_oserror_a_reporter_is_silent(error: OSError) -> None:
    failing, recorder = Failing(error), Recorder()
    reporter = Fanout(failing, recorder)
    for text in ("one", "two"):
        reporter.report(Notice(text))
    assert failing.asked == 1
    assert [event.text for event in recorder.of(Notice)] == ["one", "two"]


def test_other_errors_are_told_to_those_who_still_hear() -> None:
    recorder = Recorder()
    reporter = Fanout(Failing(KeyError("step")), recorder, Failing(ValueError("I/O operation on closed file.")))
    with pytest.warns(RuntimeWarning, match="Failing failed and gets no more events"):  # it may have been the only one that a person sees
        reporter.report(Notice("one"))
    reporter.report(Notice("two"))
    said = [event.text for event in recorder.of(Notice)]
    begin = "Failing failed and gets no more events: "
    assert said == ["one", f"{begin}KeyError: 'step'", f"{begin}ValueError: I/O operation on closed file.", "two"]
    assert reporter.reporters == [recorder]


def test_what_cannot_report_is_refused_at_once() -> None:
    with pytest.raises(BadInput, match="A reporter of type builtin_function_or_method has no method report"):
        Fanout(print)  # type: ignore[arg-type]


def test_ctrl_c_in_a_reporter_is_still_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt):
        Fanout(Failing(KeyboardInterrupt())).report(Notice("one"))


def test_the_file_of_events_takes_any_text_and_survives_any_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")  # a name that is no UTF-8
    events = JsonLines(tmp_path / "events.jsonl")
    events.report(Notice(f"rows of {name}"))
    assert json.loads((tmp_path / "events.jsonl").read_text(encoding="utf-8"))["text"] == f"rows of {name}"
    events.report(Notice(separated := "one\u2028two\u2029three\x85four"))  # lines for str.splitlines, none for JSON
    assert [record["text"] for record in read_events(tmp_path / "events.jsonl")][1:] == [separated]
    JsonLines(tmp_path).report(Notice("a folder"))
    if os.path.exists("/dev/full"):
        JsonLines(Path("/dev/full")).report(Notice("a full disk"))


@pytest.mark.parametrize("event", ["resumed", "round", "step", "held_out", "checkpoint", "own_answers"])
@pytest.mark.parametrize("number", [{}, {"step": "4", "number": None}])
def test_a_damaged_record_hides_no_other(tmp_path: Path, event: str, number: dict[str, Any]) -> None:
    path = tmp_path / "events.jsonl"
    whole = [{"event": "step", "step": 1}, {"event": "resumed", "step": 1}, {"event": "step", "step": 2}]
    records = [whole[0], {"event": event, **number}, {"event": []}, *whole[1:]]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [record for record in read_events(path) if record["event"]] == whole
