"""An earlier run as the teacher: its own data is proposed, with its columns and its held-out rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from wizard_answers import Listening, here
from written_run import written_run

from finetune.wizard import ask_recipe

DATASET = {
    "source": "support.csv",
    "samples": 200,
    "columns": {"prompt": "ticket", "completion": "reply"},
    "encoding": "cp1252",
    "held_out": 0.2,
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    written_run(tmp_path / "expert", change={"dataset": DATASET, "seed": 7, "benchmark": {"rows": 30}})
    return tmp_path


def test_the_student_of_an_expert_learns_from_the_experts_own_rows(workplace: Path) -> None:
    rows = "\n".join(f"where is parcel {number};it is at stop {number}" for number in range(40))
    (workplace / "support.csv").write_text(f"ticket;reply\n{rows}\n", encoding="cp1252")
    person = Listening({"approach": "distillation", "teacher": "./expert", "student": "made from the teacher", "student.layers": "0.67"})
    recipe = ask_recipe(person, here)
    assert recipe.dataset.source == "support.csv"
    assert recipe.dataset.columns is not None
    assert (recipe.dataset.columns.prompt, recipe.dataset.columns.completion) == ("ticket", "reply")
    assert (recipe.dataset.encoding, recipe.dataset.held_out, recipe.dataset.samples) == ("cp1252", 0.2, 200)
    assert (recipe.seed, recipe.benchmark.rows) == (7, 30)
    assert any(text.startswith("./expert was trained on support.csv") for text in person.shown)


def test_where_the_experts_rows_are_gone_the_usual_data_is_proposed(workplace: Path) -> None:
    person = Listening({"approach": "distillation", "teacher": "./expert", "student": "made from the teacher", "student.layers": "0.67"})
    assert ask_recipe(person, here).dataset.source == "builtin:python-docs"
