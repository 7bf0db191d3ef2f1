"""Every task once, from the recipe to the records: the run ends, its keys are as the task says, and plan, report and card name the task."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from workshop import Workshop, recorded

from finetune import LLMFineTuner
from finetune.distillation.on_policy import practice
from finetune.errors import RecipeError
from finetune.events import Recorder, TrainingStep
from finetune.publish.card import card_of
from finetune.recipe import Recipe
from finetune.recipe.task_settings import TASKS, task_words
from finetune.screen.console import THEME
from finetune.screen.plan_table import review

PRACTISING = [name for name, task in TASKS.items() if task.practises]
SHORT = {"benchmark": {"rows": 4, "max_new_tokens": 4, "speed": False}}


def layer(shop: Workshop, task: str, **changes: Any) -> dict[str, Any]:
    own = {"on_policy": {"tokens": 8, "refresh": 12}} if TASKS[task].practises else {}
    return shop.distilling(**{**SHORT, "distillation": {"task": task, **own}, **changes})


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_each_task(task: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(practice, "CUT", 1.0)  # answers of a random model often do not end
    tuner = shop.tuner(layer(shop, task))
    result = tuner.run()
    kept = Recipe.load(tuner.folder.recipe)
    asked = dict(TASKS[task].distillation)
    own = asked.pop("on_policy", None)
    assert {key: getattr(kept.distillation, key) for key in asked} == asked
    share = own["share"] if own else 0
    assert sum(each["answers"] for each in result.scores.get("own_answers", [])) == round(share * 24), "of the second epoch"
    steps = recorded(tuner).of(TrainingStep)
    assert [("own_kl" in step.parts) for step in steps] == [False] * 4 + [own is not None] * 4
    assert {metric.replace("rouge", "rougeL") for metric in TASKS[task].metrics} <= set(result.scores["after"])
    said = task_words(task)
    assert said in card_of(tuner.folder, repo=None)
    assert said in (tuner.folder.run / "report.html").read_text(encoding="utf-8")
    console = Console(width=120, record=True, file=io.StringIO(), theme=THEME)
    console.print(review(tuner.recipe, tuner.plan()))
    assert said in console.export_text()


@pytest.mark.parametrize("task", PRACTISING)
def test_what_only_the_run_can_know_names_the_task_too(task: str, shop: Workshop, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"a cat and a dog {'abcdefgh'[place % 8]}" for place in range(20)))
    plain = {"source": str(text), "samples": None, "max_length": 64, "held_out": 0.25}
    with pytest.raises(RecipeError, match=rf"`distillation.task: {task}`\) lets the student answer prompts, and no row has one"):
        shop.tuner(layer(shop, task, dataset=plain)).plan()


def test_several_processes_are_refused_with_the_task(shop: Workshop) -> None:
    recipe = Recipe.from_layers(layer(shop, "chat"))
    tuner = LLMFineTuner(recipe, reporter=Recorder(), runtime=replace(shop.runtime, processes=2, engine="torchrun"))
    with pytest.raises(RecipeError, match=r"practises on its own answers \(`distillation.task: chat`\) in one process"):
        tuner.check()
