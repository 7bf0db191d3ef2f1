"""The wizard asks for several teachers only if a person wants them, and its answers are a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wizard_answers import Listening, here, model_folder

from finetune.recipe import Recipe
from finetune.wizard import ask_recipe
from finetune.wizard.asking.undo import Rewind


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("docs_expert", "maths_expert"):
        model_folder(tmp_path / name)
    return tmp_path


def asked(**answers: Any) -> tuple[Recipe, Listening]:
    prompter = Listening({"approach": "distillation", **{key.replace("__", "."): answer for key, answer in answers.items()}})
    return Rewind(prompter).run(lambda given: ask_recipe(given, here)), prompter


def test_enter_keeps_one_teacher() -> None:
    recipe, prompter = asked()
    assert recipe.teachers is None
    assert recipe.teacher is not None
    assert prompter.questions["distillation.way"] == "How should it be distilled?"
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


@pytest.mark.parametrize("more", [{}, {"teacher": "self"}])
def test_own_answers_ask_nothing_more_and_get_an_epoch_of_their_own(more: dict[str, Any]) -> None:
    recipe, prompter = asked(distillation__way="own", **more)
    spec = recipe.distillation.on_policy
    assert spec is not None
    assert (spec.share, spec.tokens, spec.refresh, spec.objective) == (0.5, 96, 64, None)
    assert recipe.training.epochs == 2
    assert recipe.teaches_itself == bool(more)
    assert not [key for key in prompter.questions if "on_policy" in key]


def test_practice_has_advanced_settings_and_refuses_a_single_epoch() -> None:
    recipe, _ = asked(
        distillation__way="own",
        advanced=True,
        training__epochs=["1", "3"],
        distillation__on_policy__share=["1.5", "0.25"],
        distillation__on_policy__tokens="40",
        distillation__on_policy__refresh="32",
    )
    assert recipe.distillation.on_policy is not None
    assert recipe.distillation.on_policy.model_dump(exclude_none=True) == {"share": 0.25, "tokens": 40, "refresh": 32}
    assert recipe.training.epochs == 3
