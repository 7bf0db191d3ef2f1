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
    result = {
        "before": {"kl": score},
        "after": {"kl": score, "agreement": score, "perplexity": score},
        "seconds": 9,
        "parameters": 1e8,
        "epochs": 1,
    }
    (tmp_path / "students").mkdir()
    for name in import_module("programme_students").ROWS:
        programme.place(tmp_path / "students", name).write_text(json.dumps(result))  # type: ignore[attr-defined]
    monkeypatch.setattr("sys.argv", ["programme.py", "--only", "students", "--rows", "layers", "--folder", str(tmp_path)])
    programme.main()  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    assert "| layers: 20 of 30" in shown
    assert "0.500 [0.400, 0.600]" in shown
    assert "width" not in shown


def test_students_of_equal_size_are_compared_row_by_row(programme: object, capsys: pytest.CaptureFixture[str]) -> None:
    students = import_module("programme_students")

    def found(each: list[float]) -> dict[str, object]:
        score = {name: [0.5, 0.4, 0.6] for name in ("kl", "agreement", "perplexity")}
        rows = {"divergences": each, "tokens": [10] * len(each)}
        return {"before": score, "after": score, "seconds": 9, "parameters": 1e8, "epochs": 1, "each": rows}

    rows = [float(row) for row in range(1, 11)]
    students.show(
        {
            students.PACE: {students.FEWER: 120.0, students.NARROWER: 100.0},
            students.FEWER: found(rows),
            students.NARROWER: found([0.75 * row for row in rows]),
        }
    )
    shown = capsys.readouterr().out
    assert f"KL of {students.NARROWER} / KL of {students.FEWER}: 0.75 [0.75, 0.75]" in shown
    assert "layers: 20 of 30 120; width: 864 of 1,536 100" in shown


def test_a_task_is_compared_with_compress_row_by_row(programme: object, capsys: pytest.CaptureFixture[str]) -> None:
    def found(kl: float, rouge: float) -> dict[str, object]:
        rows = {"kl": [kl * 10] * 10, "tokens": [10] * 10, "agreed": [5] * 10, "rougeL": [rouge] * 10}
        fresh = {"sums": [kl * 20] * 10, "tokens": [10] * 10, "cut": 0.25}
        values = {"kl": 1.0, "rougeL": 0.1}
        return {"seconds": 9, "rows": {"after": rows}, "fresh": fresh, "own": "", "values": {"before": values, "teacher": values}}

    import_module("programme_tasks").show({"chat rows, task": found(0.5, 0.3), "chat rows, compress": found(0.75, 0.2)})
    shown = capsys.readouterr().out
    assert "| chat | task | 9 | 0.500 [0.500, 0.500] | 1.000 [1.000, 1.000] | 0.300 [0.188, 0.526] | 25% | none |" in shown
    assert "| chat | difference | | -0.250 [-0.250, -0.250] | -0.500 [-0.500, -0.500] | +0.100 [+0.100, +0.100] | | |" in shown


def test_the_default_runs_show_scores_and_answers(programme: object, capsys: pytest.CaptureFixture[str]) -> None:
    sides = ("teacher", "before", "after")
    scores = {
        "seconds": 300,
        "retention": {"rougeL": {"value": 0.95, "low": 0.82, "high": 1.1}},
        "intervals": {side: {"rougeL": [0.1, 0.5]} for side in sides},
        "generations": [{"prompt": "?", "reference": "Return\na sum.", **{side: f"{side} says" for side in sides}}] * 4,
        **{side: {"rougeL": 0.3} for side in sides},
    }
    import_module("programme_defaults").show({"student": scores})
    shown = capsys.readouterr().out
    assert "student, 5 minutes" in shown
    assert "| ROUGE-L | 0.300 [0.100, 0.500] |" in shown
    assert "Kept of the teacher's ROUGE-L: 95% [82%, 110%]." in shown
    assert shown.count("    data: Return a sum.\n teacher: teacher says") == 3
