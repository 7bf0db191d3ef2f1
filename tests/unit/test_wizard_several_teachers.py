"""The wizard asks for several teachers only if a person wants them, and its answers are a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wizard_answers import Listening, here

from finetune.recipe import Recipe
from finetune.wizard import ask_recipe
from finetune.wizard.undo import Rewind


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("docs_expert", "maths_expert"):
        (tmp_path / name).mkdir()
    return tmp_path


def asked(**answers: Any) -> tuple[Recipe, Listening]:
    prompter = Listening({"approach": "distillation", **{key.replace("__", "."): answer for key, answer in answers.items()}})
    return Rewind(prompter).run(lambda given: ask_recipe(given, here)), prompter


def test_enter_keeps_one_teacher() -> None:
    recipe, prompter = asked()
    assert recipe.teachers is None
    assert recipe.teacher is not None
    assert prompter.questions["distillation.way"] == "How shall it be distilled?"
    assert not [key for key in prompter.questions if key.startswith("teachers")]


def test_several_teachers_are_one_question_more_and_teach_together() -> None:
    recipe, prompter = asked(distillation__way="several", teachers__others="./docs_expert, ./maths_expert")
    assert recipe.teacher is None
    assert [each.source for each in recipe.teachers or []][1:] == ["./docs_expert", "./maths_expert"]
    assert {each.weight for each in recipe.teachers or []} == {None}
    assert [key for key in prompter.questions if key.startswith("teachers")] == ["teachers.others", "teachers.divided"]


def test_each_can_have_its_own_rows() -> None:
    recipe, _ = asked(
        distillation__way="several",
        teachers__others=["", "./docs_expert, ./docs_expert", "./docs_expert"],
        teachers__divided="apart",
        teachers__column="domain",
        teachers__value1="docs",
        teachers__value2=["docs", "maths"],
    )
    assert recipe.routed_by == "domain"
    assert [each.rows.equals for each in recipe.teachers or [] if each.rows] == ["docs", "maths"]


def test_weights_are_an_advanced_setting() -> None:
    recipe, _ = asked(distillation__way="several", teachers__others="./docs_expert", advanced=True, teachers__weights=["1", "1, 0", "2, 1"])
    assert [each.weight for each in recipe.teachers or []] == [2.0, 1.0]
