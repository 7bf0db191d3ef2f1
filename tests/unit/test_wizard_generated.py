"""A distillation without data: the wizard offers rows that the teacher writes, and asks little about them."""

from __future__ import annotations

from pathlib import Path

import pytest
from wizard_answers import Listening, enter_all_the_way, here, model_folder

from finetune.recipe import Recipe
from finetune.wizard import ask_recipe
from finetune.wizard.asking.prompter import ScriptedPrompter
from finetune.wizard.asking.undo import Rewind

GENERATED = {"approach": "distillation", "dataset.source": "generated"}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(prompter: ScriptedPrompter) -> Recipe:
    return Rewind(prompter).run(lambda answers: ask_recipe(answers, here))


def test_enter_writes_three_hundred_rows_about_anything() -> None:
    recipe = asked(Listening(dict(GENERATED)))
    assert (recipe.dataset.source, recipe.dataset.topic, recipe.dataset.samples) == ("generated", None, 300)
    assert recipe.training.epochs == "auto"


def test_a_topic_and_a_number_are_what_is_asked() -> None:
    prompter = Listening({**GENERATED, "dataset.topic": "gardening in dry summers", "dataset.samples": "40"})
    recipe = asked(prompter)
    assert (recipe.dataset.topic, recipe.dataset.samples) == ("gardening in dry summers", 40)
    assert [key for key in prompter.questions if key.startswith("dataset.")] == ["dataset.source", "dataset.topic", "dataset.samples"]


@pytest.mark.parametrize(("approach", "who"), [("distillation", "The teacher"), ("fine-tuning", "Another model")])
def test_it_is_offered_and_is_no_default(approach: str, who: str) -> None:
    prompter = Listening({"approach": approach})
    recipe = asked(prompter)
    choices = {choice.value: choice.title for choice in prompter.offered["dataset.source"]}
    assert choices["generated"] == f"No data? {who} writes it"
    assert recipe.dataset.source == "builtin:python-docs"


def test_from_nothing_is_a_way_to_distil() -> None:
    prompter = Listening({"approach": "distillation", "distillation.way": "nothing"})
    recipe = asked(prompter)
    assert [choice.title for choice in prompter.offered["distillation.way"]][-1] == "From nothing"
    assert recipe == asked(Listening(dict(GENERATED)))
    assert "self" not in [choice.value for choice in prompter.offered["teacher"]]


@pytest.mark.parametrize("teachers", [{"teacher": "self"}, {"distillation.way": "several", "teachers.others": "./other"}])
def test_it_is_not_offered_where_the_recipe_would_refuse_it(teachers: dict[str, str], workplace: Path) -> None:
    model_folder(workplace / "other")
    prompter = Listening({"approach": "distillation", **teachers})
    asked(prompter)
    assert "generated" not in [choice.value for choice in prompter.offered["dataset.source"]]


def test_changing_the_mind_leaves_nothing_of_it() -> None:
    answers = {**GENERATED, "dataset.source": ["generated", "builtin:python-docs"], "dataset.topic": ScriptedPrompter.BACK}
    recipe = asked(enter_all_the_way(**{key.replace(".", "__"): value for key, value in answers.items()}))
    assert recipe.dataset.topic is None
