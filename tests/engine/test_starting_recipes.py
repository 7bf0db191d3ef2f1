"""The recipes to start from: each is planned on its own kind of data, and `finetune-cli recipes` lists and copies them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from starting_data import write_files
from workshop import Workshop

from finetune import cli
from finetune.recipe import Recipe
from finetune.recipe.starting import TASKS, starting_recipe, starting_recipes

OWN_DATA = ("documents", "support-answers", "classification", "structured-output")


@pytest.fixture
def place(place: Path) -> Path:
    """The working folder, with the files that the recipes ask for."""
    write_files(place, 105)
    return place


def small(name: str, shop: Workshop) -> list[str]:
    """The changes that put pico models in place of the recipe's own."""
    layer = yaml.safe_load(starting_recipe(name).text)
    models = [f"model={shop.model}"] if "teacher" not in layer else [f"teacher={shop.model}", "model.from_teacher={layers: 2}"]
    return [word for change in models for word in ("--set", change)]


def planned(name: str, shop: Workshop, capfd: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert cli.main(["recipes", name]) == 0
    capfd.readouterr()
    assert cli.main(["plan", f"{name}.yaml", "--json", "--device", "cpu", *small(name, shop), *more]) == 0
    plan: dict[str, Any] = json.loads(capfd.readouterr().out)
    return plan


@pytest.mark.parametrize("name", OWN_DATA)
def test_a_recipe_for_own_data_finds_them_as_its_comment_says(
    name: str, place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = planned(name, shop, capfd, "--set", "dataset.max_length=256")  # of which pico models can read no more
    assert plan["problems"] == []
    assert plan["data"]["skipped"] == 0
    assert plan["data"]["format"] == {"documents": "text", "support-answers": "question_answer"}.get(name, "prompt_completion")
    assert plan["held_out_rows"] > 0


@pytest.mark.parametrize("name", ["smaller-model", "expert-to-small", "code-comments", "no-data"])
def test_a_recipe_that_runs_as_it_is_can_be_planned(name: str, place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    plan = planned(name, shop, capfd, "--set", "dataset.samples=40", "--set", "dataset.max_length=128")
    assert plan["problems"] == []
    assert plan["rows"] + plan["held_out_rows"] == 40


def test_expert_and_student_are_measured_on_the_same_rows() -> None:
    expert, student = (Recipe.from_layers(yaml.safe_load(starting_recipe(name).text)) for name in ("code-comments", "expert-to-small"))
    assert (expert.dataset, expert.seed, expert.benchmark.rows) == (student.dataset, student.seed, student.benchmark.rows)


def test_a_recipe_measures_what_its_comment_says() -> None:
    for name in TASKS:
        comment, _, text = starting_recipe(name).text.partition("\napproach")
        metrics = Recipe.from_layers(yaml.safe_load(f"approach{text}")).benchmark.metrics
        assert ("letter by letter" in comment) == ("exact_match" in metrics), name
        assert ("how many labels are right" in comment) == ("accuracy" in metrics), name


def test_every_recipe_says_for_whom_what_to_change_and_what_it_costs() -> None:
    for name in TASKS:
        comment = starting_recipe(name).text.partition("\napproach")[0]
        assert all(word in comment for word in ("Change `", "Cost: ")), name
    for each in starting_recipes():
        assert 20 < len(each.about) < 130, each.name


def test_the_list_has_every_recipe_and_a_copy_is_never_written_over_another_file(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)["recipes"]
    assert [each["name"] for each in listed][: len(TASKS)] == list(TASKS)
    assert cli.main(["recipes"]) == 0
    shown = capfd.readouterr().out
    assert all(each["name"] in shown for each in listed)
    assert cli.main(["recipes", "documents", "--output", "mine.yaml"]) == 0
    assert Path("mine.yaml").read_text(encoding="utf-8") == starting_recipe("documents").text
    Path("mine.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert cli.main(["recipes", "full", "--output", "mine.yaml"]) == 2
    assert Path("mine.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    assert cli.main(["recipes", "full", "--output", "mine.yaml", "--overwrite"]) == 0
    assert cli.main(["recipes", "documnts"]) == 2
    assert "Did you mean documents?" in capfd.readouterr().err
    assert cli.main(["recipes", "--output", "mine.yaml"]) == 2
