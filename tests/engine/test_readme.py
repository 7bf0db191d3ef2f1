"""The README and the pages it leads to are true: commands are commands, recipes run, Python runs, and the files are there after a run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT, blocks
from pico import pico, pico_rows
from workshop import Workshop

from finetune import LLMFineTuner, cli
from finetune.command_line.arguments import ARGUMENTS
from finetune.recipe.starting import TASKS

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
LINES = 150


def texts(page: str, language: str) -> list[str]:
    """The fences of one language on a page."""
    return [block.text for block in blocks(ROOT / page, language)]


def commands(document: str = README) -> list[str]:
    """Everything after our program's name, in blocks and in running text."""
    found = re.findall(r"(?:python finetune_cli\.py|`finetune-cli)([^`\n]*)", document)
    return sorted({re.sub(r"#.*", "", command).strip() for command in found})


@pytest.fixture
def place(place: Path, shop: Workshop) -> Path:
    """The working folder, with my_rows.jsonl."""
    (place / "my_rows.jsonl").write_bytes(shop.rows.read_bytes())
    return place


def test_it_begins_with_the_two_commands() -> None:
    assert README.index("<!-- main job -->") < README.index("<!-- tests -->") < 700
    assert len(README.splitlines()) <= LINES
    assert texts("README.md", "bash") == [
        "pip install . && python finetune_cli.py\n",
        'pip install ".[test]" && pytest -n 4 --dist loadfile\n',
    ]


@pytest.mark.parametrize("command", sorted({*commands(), *commands(COMMANDS)}))
def test_every_command_is_understood(command: str) -> None:
    cli.parser().parse_args(shlex.split(command))


def test_every_command_of_the_program_is_in_the_table() -> None:
    (choices,) = [action.choices for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)]
    listed = {command.split()[0] for command in commands(COMMANDS) if command and not command.startswith("-")}
    assert listed == set(choices)
    assert {command.split()[0] for command in commands() if command and not command.startswith("-")} <= listed


def test_every_option_of_the_program_is_on_the_page_of_commands() -> None:
    assert [option for option in ARGUMENTS if option.startswith("--") and f"`{option}" not in COMMANDS] == []


def test_every_page_of_the_site_can_be_reached_from_it() -> None:
    """Directly, or from a page that it names."""
    named = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README))
    further = {page for name in named for page in re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / name).read_text(encoding="utf-8"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= named | further


def small(recipe: str, shop: Workshop) -> dict[str, Any]:
    """A recipe with pico models in place of its own, and their rows."""
    layer = yaml.safe_load(recipe)
    if "teacher" in layer:
        layer["teacher"] = str(shop.model)
    if isinstance(layer["model"], dict):
        layer["model"] = {"from_teacher": {"layers": 2}}
    else:
        layer["model"] = str(shop.smaller_model() if "teacher" in layer else shop.model)
    columns = {"prompt": "prompt", "completion": "completion"}
    return {
        **layer,
        "dataset": {**layer.get("dataset", {}), "source": "my_rows.jsonl", "columns": columns, "config": None, "samples": None},
    }


SHIPPED = [path for path in sorted((ROOT / "finetune" / "recipe" / "examples").glob("*.yaml")) if path.stem not in TASKS]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_recipes_can_be_planned_on_small_models(
    path: Path, place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "recipe.yaml").write_text(yaml.safe_dump(small(path.read_text(encoding="utf-8"), shop)))
    assert cli.main(["plan", "recipe.yaml", "--json", "--device", "cpu"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["steps"] > 0
    assert plan["problems"] == []


@pytest.mark.parametrize(("page", "folder"), [("docs/data.md", "my_model"), ("docs/ways-to-distil.md", "distilled_model")])
def test_the_whole_recipes_run(page: str, folder: str, place: Path, shop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    (recipe,) = texts(page, "yaml")
    (place / "recipe.yaml").write_text(yaml.safe_dump(small(recipe, shop)))
    assert cli.main(["plan", "recipe.yaml", "--device", "cpu"]) == 0
    assert "Memory" in capfd.readouterr().out
    assert cli.main(["run", "recipe.yaml", "--device", "cpu", "--set", "training.epochs=1"]) == 0
    assert Path(folder, "run", "benchmark.json").exists()


def test_its_python_runs_and_leaves_the_files_it_lists(place: Path, shop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = texts("README.md", "python")
    assert code == texts("docs/python.md", "python")[0]
    code = code.replace('{"dataset"', f'{{"model": {str(shop.model)!r}, "dataset"')
    assert str(shop.model) in code
    known: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), known)
    assert "->" in capsys.readouterr().out
    folder = place / "finetuned_model"
    plan, result = known["tuner"].plan(), known["result"]
    rows = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition("## What comes back")[2].splitlines()
    told = {row.split("|")[1].strip(): set(re.findall(r"`(\w+)[`\[]", row.split("|")[2])) for row in rows if row.startswith("| `")}
    assert told["`tuner.plan()`"] <= set(vars(plan))
    assert told["`tuner.run()`"] <= {*vars(result), *result.training}
    assert told["`result.scores`, also in `run/benchmark.json`"] <= set(result.scores)
    names = re.findall(r"^  (\S+)", texts("docs/commands.md", "text")[-1], re.MULTILINE)
    assert len(names) >= 8
    missing = [name for name in names if not (folder / name).exists()]
    assert missing == ["run/debug.log"], "only the program writes that one: in Python, noise goes where Python sends it"


def test_the_trainer_of_the_page_trains(place: Path) -> None:
    pico("llama", seed=1).save_pretrained(place / "teacher")
    pico("llama", seed=2, num_hidden_layers=2).save_pretrained(place / "student")
    known: dict[str, Any] = {"rows": pico_rows(8)}
    exec(compile(texts("docs/python.md", "python")[1], "python.md", "exec"), known)
    assert known["trainer"].state.global_step == 1


def test_the_python_of_the_distillation_page_trains_and_its_objective_has_the_right_gradient(place: Path, shop: Workshop) -> None:
    trains, mine, checks = texts("DISTILLATION_UPDATE.md", "python")
    for name, folder in (("gpt2-medium", shop.model), ("gpt2", shop.smaller_model())):
        assert f'"{name}"' in trains
        trains = trains.replace(f'"{name}"', repr(str(folder)))
    known: dict[str, Any] = {}
    exec(compile(trains, "DISTILLATION_UPDATE.md", "exec"), known)
    assert known["trainer"].state.global_step == 1
    exec(compile(mine + checks, "DISTILLATION_UPDATE.md", "exec"), known)


def test_the_steps_of_the_page_distil(place: Path, shop: Workshop) -> None:
    (place / "teacher").symlink_to(shop.model)
    (place / "student").symlink_to(shop.smaller_model())
    known: dict[str, Any] = {"rows": [json.loads(line) for line in shop.rows.read_text().splitlines()], "LLMFineTuner": LLMFineTuner}
    exec(compile(texts("docs/python.md", "python")[2], "python.md", "exec"), known)
    scores = json.loads((place / "distilled_model" / "run" / "benchmark.json").read_text())
    assert scores["teacher"]["perplexity"] > 0
    assert scores["after"]["kl"] < scores["before"]["kl"]


def test_help_and_doctor_answer(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    assert cli.main(["doctor"]) == 0
    assert "torch" in capfd.readouterr().out
