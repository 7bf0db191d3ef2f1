"""The study's command: every part can be run, and results that are there are shown and not made again."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def programme(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("programme")


def test_every_part_has_rows_and_what_makes_and_shows_them(programme: object) -> None:
    for name in programme.PARTS.values():  # type: ignore[attr-defined]
        part = import_module(name)
        assert len(part.ROWS) == len(set(part.ROWS)) > 1
        assert callable(part.work)
        assert callable(part.show)


def test_results_that_are_there_are_shown(
    programme: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = [0.5, 0.4, 0.6]
    result = {"before": {"kl": score}, "after": {"kl": score, "agreement": score, "perplexity": score}, "seconds": 9, "parameters": 1e8}
    (tmp_path / "students").mkdir()
    for name in import_module("programme_students").ROWS:
        programme.place(tmp_path / "students", name).write_text(json.dumps(result))  # type: ignore[attr-defined]
    monkeypatch.setattr("sys.argv", ["programme.py", "--only", "students", "--rows", "layers", "--folder", str(tmp_path)])
    programme.main()  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    assert "| layers: 20 of 30" in shown
    assert "0.500 [0.400, 0.600]" in shown
    assert "width" not in shown
