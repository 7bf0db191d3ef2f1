"""The wizard takes the address of a server for the name of a teacher, asks what is needed of it, and never for a key itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wizard_answers import Listening, here, model_folder

from finetune.recipe import STARTER, Recipe
from finetune.wizard import ask_recipe
from finetune.wizard.asking.undo import Rewind
from finetune.wizard.distilling.served_teacher import NOT_HERE

ADDRESS = "http://localhost:8000/v1"
SERVED = {"teacher": "another", "teacher.name": ADDRESS, "teacher.model": "qwen"}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(**answers: Any) -> tuple[Recipe, Listening]:
    prompter = Listening({"approach": "distillation", **answers})
    return Rewind(prompter).run(lambda given: ask_recipe(given, here)), prompter


def test_an_address_and_a_name_are_enough() -> None:
    recipe, prompter = asked(**SERVED)
    assert recipe.grader is not None
    assert recipe.grader.model_dump(exclude_none=True) == {"source": "", "server": ADDRESS, "model": "qwen"}
    assert recipe.model == STARTER, "no student is made from what is not here"
    assert isinstance(recipe.training.learning_rate, float)
    assert "Made from the teacher" not in prompter.more["student"]
    assert [key for key in prompter.questions if key.startswith("teacher.")] == [
        "teacher.name",
        "teacher.model",
        "teacher.key",
        "teacher.budget_tokens",
    ]
    assert "generated" in [choice.value for choice in prompter.offered["dataset.source"]]


def test_each_answer_is_checked_before_the_next_question() -> None:
    wrong = {
        "teacher.name": ["http://me:secret@host/v1", ADDRESS],
        "teacher.model": ["", "qwen"],
        "teacher.key": ["sk-12 34", "MY_KEY"],
        "teacher.budget_tokens": ["0", "50000"],
    }
    recipe, prompter = asked(**{**SERVED, **wrong})
    assert recipe.grader is not None
    assert (recipe.grader.key, recipe.grader.budget_tokens) == ("MY_KEY", 50_000)
    for said in (
        "Has a `server` that is not an address such as http://localhost:8000/v1, without a password in it.",
        "Type the name of the model.",
        "Has a `key` that is not the name of an environment variable.",
        "Must be at least 1, not '0'.",
    ):
        assert said in prompter.shown


def test_it_can_write_the_rows_too_before_it_grades_them() -> None:
    recipe, _ = asked(**SERVED, **{"distillation.way": "nothing"})
    assert recipe.grader is not None
    assert (recipe.model, recipe.dataset.source, recipe.dataset.samples) == (STARTER, "generated", 300)


@pytest.mark.parametrize(
    "where", [{"distillation.way": "own"}, {"distillation.way": "rounds", "rounds.layers": "2"}, {"approach": "fine-tuning"}]
)
def test_elsewhere_an_address_is_no_model(where: dict[str, str]) -> None:
    model_folder(Path("made"))
    key = "model" if "approach" in where else "teacher"
    _, prompter = asked(**{**where, key: "another", f"{key}.name": [ADDRESS, "./made"]})
    assert NOT_HERE in prompter.shown


def test_a_server_is_no_other_teacher(tmp_path: Path) -> None:
    model_folder(tmp_path / "made")
    _, prompter = asked(**{"distillation.way": "several", "teachers.others": [ADDRESS, "./made"]})
    assert NOT_HERE in prompter.shown
