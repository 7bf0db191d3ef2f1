"""The recipe of a student made in rounds, the way down that is proposed, and the wizard's questions about both."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from wizard_answers import Listening, here

from finetune.distillation.rounds import gentle_rounds, round_recipes
from finetune.errors import RecipeError
from finetune.models.facts import ModelFacts
from finetune.recipe import Recipe
from finetune.wizard import ask_recipe, step1_models
from finetune.wizard.asking.undo import Rewind

DISTILLING = {"approach": "distillation"}


def test_the_rounds_end_with_the_student_of_the_recipe() -> None:
    recipe = Recipe.from_layers(DISTILLING, {"distillation": {"rounds": [24, 20, 15]}})
    recipes = round_recipes(recipe)
    assert [each.model.from_teacher.layers for each in recipes] == [24, 20, 15]
    assert recipes[-1].model == recipe.model
    assert all(not each.distillation.in_rounds and each.training == recipe.training for each in recipes)


def test_the_student_may_be_left_out_or_agree() -> None:
    left_out = Recipe.from_layers(DISTILLING, {"distillation": {"rounds": [24, 15]}})
    given = Recipe.from_layers(DISTILLING, {"distillation": {"rounds": [24, 15]}, "model": {"from_teacher": {"layers": 15}}})
    assert left_out == given
    assert left_out.with_changes({}) == left_out


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"distillation": {"rounds": [20, 24]}}, "must fall from round to round, and 24 follows 20"),
        ({"distillation": {"rounds": [20, 20]}}, "must fall from round to round, and 20 follows 20"),
        ({"distillation": {"rounds": []}}, "distillation.rounds"),
        ({"distillation": {"rounds": [20, 1]}}, "distillation.rounds"),
        ({"distillation": {"rounds": [20, 0.5]}}, "distillation.rounds"),
        ({"distillation": {"rounds": "24"}}, "distillation.rounds"),
        ({"distillation": {"rounds": [24, 20]}, "model": {"from_teacher": {"layers": 15}}}, "end with 20 layers"),
        ({"distillation": {"rounds": [24, 20]}, "model": {"from_teacher": {"layers": 0.67}}}, "end with 20 layers"),
        ({"distillation": {"rounds": [24, 20]}, "model": {"from_teacher": {"layers": 20, "ffn": 0.5}}}, "`model.from_teacher.ffn`"),
        ({"distillation": {"rounds": [24, 20]}, "model": {"from_teacher": {"heads": 0.5}}}, "`model.from_teacher.heads`"),
        ({"distillation": {"rounds": [24, 20]}, "model": {"from_teacher": {"size": 0.5}}}, "`model.from_teacher.size`"),
        ({"distillation": {"rounds": [24, 20]}, "model": "gpt2"}, "a ready-made student"),
        ({"distillation": {"rounds": [24, 20]}, "approach": "fine-tuning"}, "`approach: distillation`"),
    ],
)
def test_rounds_that_cannot_be_are_refused_in_a_sentence(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers(DISTILLING, layer)
    assert said in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(("depth", "layers"), [(30, 15), (30, 8), (12, 6), (6, 2), (4, 3), (3, 2), (80, 10)])
def test_no_gentle_round_leaves_out_more_than_three_in_ten_layers_if_it_leaves_out_several(depth: int, layers: int) -> None:
    rounds = [depth, *gentle_rounds(depth, layers)]
    assert rounds[-1] == layers
    assert all(before > after and (after >= 0.7 * before or before - after == 1) for before, after in pairwise(rounds))


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step1_models, "_facts", lambda *_: ModelFacts(**FACTS))


FACTS: dict[str, Any] = {
    **{"name": "teacher", "parameters": 134_515_008, "layers": 30, "hidden": 576, "vocabulary": 49_152},
    **{"context": 8192, "bytes": 269_060_552, "licence": None},
}


def asked(**answers: Any) -> tuple[Recipe, Listening]:
    prompter = Listening({"approach": "distillation", **{key.replace("__", "."): answer for key, answer in answers.items()}})
    return Rewind(prompter).run(lambda given: ask_recipe(given, here)), prompter


def test_the_wizard_proposes_a_way_down(teacher: None) -> None:
    recipe, prompter = asked(distillation__way="rounds")
    assert recipe.distillation.rounds == [21, 15]
    assert recipe.model.model_dump() == {"from_teacher": {"layers": 15}}
    assert not [key for key in prompter.questions if key.startswith("student")]


def test_the_wizard_takes_only_a_way_that_falls_to_the_student(teacher: None) -> None:
    recipe, _ = asked(
        distillation__way="rounds",
        rounds__layers=["0", "30", "many", "12"],
        distillation__rounds=["24", "30, 12", "12, 24, 12", "a, 12", "24, 18, 12"],
    )
    assert recipe.distillation.rounds == [24, 18, 12]


def test_without_the_facts_of_the_teacher_the_student_has_to_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step1_models, "_facts", lambda *_: None)
    recipe, _ = asked(distillation__way="rounds", rounds__layers=["", "6"])
    assert recipe.distillation.rounds == [6]
