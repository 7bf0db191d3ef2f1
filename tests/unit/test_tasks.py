"""What a student should be good at: keys that are filled in, seen in the recipe, and overruled one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from wizard_answers import Listening, here

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.recipe.distillation_settings import DistillationSpec, OnPolicySpec
from finetune.recipe.task_settings import TASKS
from finetune.wizard import ask_recipe
from finetune.wizard.asking.undo import Rewind

ROOT = Path(__file__).parents[2]
PRACTICE = {"tokens": 96, "refresh": 64, "objective": None}  # the defaults of practice
PRACTISING = [name for name, task in TASKS.items() if task.practises]


def in_full(loss: Mapping[str, Any]) -> dict[str, Any]:
    return {key: PRACTICE | value if key == "on_policy" else value for key, value in loss.items()}


def listed(name: str) -> str:
    """A task as the documents list it."""
    task = TASKS[name]
    loss = task.distillation
    own = loss.get("on_policy", {})
    words = [f"{100 * own['share']:g} %"] if own else []
    words += [f"`{own['objective']}`"] if own.get("objective") else []
    words += [f"up to {own['tokens']} tokens"] if own.get("tokens") else []
    numbers = f"{loss['alpha']:g} | {loss['temperature']:g} | {loss['supervise']}"
    return f"| `{name}` | {task.title} | `{loss['objective']}` | {numbers} | {', '.join(words)} | {', '.join(task.metrics)} |"


def test_the_tasks_are_listed_with_what_they_fill_in() -> None:
    table = "\n".join(listed(name) for name in TASKS)
    assert table in (ROOT / "DISTILLATION_UPDATE.md").read_text(encoding="utf-8")
    assert [*get_args(get_args(DistillationSpec.model_fields["task"].annotation)[0])] == [*TASKS]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_fills_in_keys_that_stand_in_the_recipe_as_themselves(task: str) -> None:
    recipe = Recipe.from_layers({"approach": "distillation", "distillation": {"task": task}})
    loss = recipe.distillation.model_dump()
    assert {key: loss[key] for key in TASKS[task].distillation} == in_full(TASKS[task].distillation)
    assert bool(recipe.distillation.practice) == TASKS[task].practises
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


def test_reasoning_has_room_to_end() -> None:
    def practice(**own: Any) -> Any:
        task = {"task": "reason", **({"on_policy": own} if own else {})}
        return Recipe.from_layers({"approach": "distillation", "distillation": task}).distillation.practice

    assert practice() == OnPolicySpec(share=1.0, tokens=256)
    assert practice(share=0.5) == OnPolicySpec(share=0.5, tokens=256)
    assert practice(tokens=32) == OnPolicySpec(share=1.0, tokens=32)


def test_practice_is_overruled_key_by_key_and_left_out() -> None:
    def practice(own: Any) -> Any:
        return Recipe.from_layers({"approach": "distillation", "distillation": {"task": "chat", "on_policy": own}}).distillation.practice

    assert practice({"tokens": 32}).model_dump() == {"share": 0.5, "tokens": 32, "refresh": 64, "objective": "skew_reverse_kl"}
    assert practice({"objective": "jsd", "share": 1}).model_dump() == PRACTICE | {"share": 1.0, "objective": "jsd"}
    assert practice(None) is practice({"share": 0}) is None


@pytest.mark.parametrize("task", PRACTISING)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"epochs": 1}}, "which begins after the first epoch, and `training.epochs: 1`: train for 2 or more"),
        ({"teacher": {"source": "gpt2", "system": "Be brief."}, "distillation": {"supervise": "answers"}}, "and `teacher.system`"),
        ({"distillation": {"across_tokenizers": "projected"}}, "only a teacher with the same tokenizer can read answers"),
        ({"distillation": {"features": {"last": 0.1}}}, "which cannot be combined"),
    ],
)
def test_what_practice_refuses_names_the_task(task: str, change: dict[str, Any], words: str) -> None:
    recipe = {"approach": "distillation", "distillation": {"task": task}}
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers(recipe, change)
    assert f"`distillation.on_policy` (of `distillation.task: {task}`)" in refused.value.message
    assert words in refused.value.message
    assert Recipe.from_layers(recipe, change, {"distillation": {"on_policy": None}}).distillation.practice is None


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


def test_the_wizard_offers_every_task_with_what_it_needs(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    prompter = Listening(
        {"approach": "distillation", "advanced": True, "distillation.task": "reason", "distillation.on_policy.tokens": "200"}
    )
    recipe = Rewind(prompter).run(lambda answers: ask_recipe(answers, here))
    offered = {choice.value: choice.title for choice in prompter.offered["distillation.task"]}
    assert offered == {"none": "Nothing in particular", **{name: task.title for name, task in TASKS.items()}}
    assert recipe.training.epochs == 2, "the default is 1"
    assert recipe.distillation.practice == OnPolicySpec(share=1.0, tokens=200)
    assert (recipe.distillation.objective, recipe.distillation.supervise) == ("forward_reverse_kl", "answers")


def test_the_wizard_offers_no_practice_beside_a_prompt_that_the_teacher_alone_sees(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    prompter = Listening({"approach": "distillation", "advanced": True, "teacher": "self", "teacher.system": "Be brief."})
    Rewind(prompter).run(lambda answers: ask_recipe(answers, here))
    assert {choice.value for choice in prompter.offered["distillation.task"]} == {"none", "classify"}
