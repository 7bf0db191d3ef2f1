"""What a student shall be good at: keys that are filled in, seen in the recipe, and overruled one by one."""

from __future__ import annotations

import pytest
from wizard_answers import Listening, here

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.task_settings import TASKS
from finetune.wizard import ask_recipe
from finetune.wizard.undo import Rewind


@pytest.mark.parametrize("task", TASKS)
def test_a_task_fills_in_keys_that_stand_in_the_recipe_as_themselves(task: str) -> None:
    recipe = Recipe.from_layers({"approach": "distillation", "distillation": {"task": task}})
    loss = recipe.distillation.model_dump()
    assert {key: loss[key] for key in TASKS[task].distillation} == TASKS[task].distillation
    assert recipe.benchmark.metrics == list(TASKS[task].metrics)
    assert Recipe.from_layers(recipe.model_dump()) == recipe
    for name in recipe.benchmark.metrics:
        registry.check_name("metrics", name)


def test_what_is_given_is_not_filled_in() -> None:
    given = {"distillation": {"task": "classify", "alpha": 0.0}, "benchmark": {"metrics": ["rouge"], "rows": 7}}
    recipe = Recipe.from_layers({"approach": "distillation"}, given)
    assert (recipe.distillation.alpha, recipe.distillation.temperature, recipe.distillation.supervise) == (0.0, 2.0, "answers")
    assert (recipe.benchmark.metrics, recipe.benchmark.rows) == (["rouge"], 7)
    without = Recipe.from_layers({"approach": "distillation"})
    assert (without.distillation.task, without.distillation.alpha, without.benchmark.metrics) == (None, 0.5, ["rouge", "perplexity"])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"approach": "distillation", "distillation": {"task": "poetry"}}, "distillation.task must be"),
        ({"distillation": {"task": "classify"}}, "has `distillation.task`, which needs `approach: distillation`"),
    ],
)
def test_tasks_that_are_none(layer: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.from_layers(layer)


def test_the_wizard_asks_behind_the_advanced_settings(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))

    def asked(**more: object) -> tuple[Recipe, Listening]:
        answers = {key.replace("__", "."): value for key, value in more.items()}
        prompter = Listening({"approach": "distillation", "advanced": True, **answers})
        return Rewind(prompter).run(lambda answers: ask_recipe(answers, here)), prompter

    recipe, prompter = asked(distillation__task="classify", distillation__supervise="all")
    assert "distillation.task" in prompter.questions
    assert (recipe.distillation.task, recipe.distillation.alpha, recipe.distillation.supervise) == ("classify", 0.5, "all")
    assert recipe.benchmark.metrics == ["accuracy", "perplexity"]
    usual, _ = asked()
    assert (usual.distillation.task, usual.distillation.alpha) == (None, 0.2)
    plain, quiet = asked(advanced=False)
    assert "distillation.task" not in quiet.questions
    assert plain.distillation == usual.distillation
