"""docs/extending.md is true: its three extensions, as a package with entry points and nothing else changed, appear everywhere and work."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from workshop import Workshop

from finetune import Recipe, cli, registry
from finetune.errors import ModelError, RecipeError
from finetune.events import Recorder
from finetune.hardware.machine import glance
from finetune.recipe.schema import recipe_schema
from finetune.run_folder import RunFolder
from finetune.wizard import ask_recipe
from finetune.wizard.asking.prompter import Choice, Question, ScriptedPrompter
from finetune.wizard.host import HostInfo

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
ADDED = {"methods": "ia3", "objectives": "symmetric_kl", "formats": "tickets"}
TICKET = '{{"subject": "Login {0}", "body": "I cannot log in.", "reply": "Reset the password of {0}."}}\n'


def install(folder: Path) -> Path:
    """The package of the page, as pip would leave it: its files, and its entry points in a dist-info folder."""
    files = re.findall(r"^```python\n# (finetune_extras/\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, text in [("finetune_extras/__init__.py", ""), *files]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (project,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    groups = re.findall(r'^\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"$', project, re.MULTILINE)
    about = folder / "finetune_extras-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: finetune-extras\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {target}\n" for group, name, target in groups))
    assert len(files) == len(groups) == len(ADDED)
    return folder


def forget() -> None:
    for known in (registry._outside, recipe_schema):
        known.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def extras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package on the path, and gone afterwards."""
    folder = install(tmp_path_factory.mktemp("site"))
    sys.path.insert(0, str(folder))
    forget()
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("finetune_extras")]:
        del sys.modules[name]
    forget()


@pytest.fixture(scope="module")
def shop(extras: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


class Offered(ScriptedPrompter):
    """Keeps the choices and the questions."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(answers, otherwise_default=True)
        self.choices: dict[str, list[Choice]] = {}
        self.helps: dict[str, str] = {}

    def ask(self, question: Question) -> str | bool:
        self.choices[question.key] = list(question.choices)
        self.helps[question.key] = f"{question.text}: {question.help}"
        return super().ask(question)


def tickets(folder: Path) -> Path:
    file = folder / "tickets.jsonl"
    file.write_text("".join(TICKET.format(name * times) for name in "abcdefgh" for times in (1, 2, 3, 4)))
    return file


@pytest.mark.usefixtures("extras")
def test_they_are_in_the_wizard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> None:
    monkeypatch.chdir(tmp_path)
    answers = {
        "approach": "distillation",
        "student": "another",
        "student.name": str(shop.smaller_model()),
        "dataset.source": "a file",
        "dataset.file": str(tickets(tmp_path)),
        "method.kind": "ia3",
        "advanced": True,
        "method.inputs": "down_proj",
        "distillation.objective": "symmetric_kl",
    }
    prompter = Offered(answers)
    recipe = ask_recipe(prompter, lambda: HostInfo(glance(), False, shop.runtime))
    assert recipe.method.model_dump() == {"kind": "ia3", "target_modules": "auto", "inputs": ["down_proj"]}
    assert recipe.distillation.objective == "symmetric_kl"
    for key, kind in (("method.kind", "methods"), ("distillation.objective", "objectives")):
        assert Choice(*next(found for found in registry.choices(kind) if found[0] == ADDED[kind])) in prompter.choices[key]
    assert prompter.helps["method.inputs"] == "Inputs: Layers whose inputs are rescaled instead, such as down_proj."
    assert any("read as support tickets" in shown for shown in prompter.shown)


@pytest.mark.usefixtures("extras")
def test_they_are_in_the_help_and_in_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for kind in ("methods", "objectives"):
        name, title, summary = next(found for found in registry.choices(kind) if found[0] == ADDED[kind])
        assert f"{name} {title}: {summary}" in said
    keys = recipe_schema()["$defs"]["ia3"]["properties"]
    assert keys["inputs"]["description"].startswith("Layers whose inputs")
    assert "symmetric_kl" in json.dumps(recipe_schema()["$defs"]["DistillationSpec"])


@pytest.mark.usefixtures("extras")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "ia4"}, "Did you mean ia3"),
        ({"method": {"kind": "ia3", "input": []}}, "Did you mean method.inputs"),
        ({"method": {"kind": "ia3", "inputs": 3}}, "method.inputs must be a list"),
        ({"distillation": {"objective": "symetric_kl"}}, "Did you mean symmetric_kl"),
    ],
)
def test_they_are_in_the_checks_of_a_recipe(wrong: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.from_layers(wrong)
    recipe = Recipe.from_layers({"method": {"kind": "ia3", "inputs": ["down_proj"]}})
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_the_format_and_the_method_train_a_model_that_merges(shop: Workshop, tmp_path: Path) -> None:
    data = {"source": str(tickets(tmp_path)), "samples": None, "max_length": 64, "held_out": 0.25}
    training = {"epochs": 4, "batch_size": 6, "learning_rate": 0.1}
    tuner = shop.tuner(shop.layer(method={"kind": "ia3", "inputs": ["down_proj"]}, dataset=data, training=training))
    plan = tuner.plan()
    assert plan.methods["ia3"] < plan.methods["lora"]
    result = tuner.run()
    assert result.scores["after"]["perplexity"] < 0.5 * result.scores["before"]["perplexity"]
    run = RunFolder.of(result.output_dir)
    report = json.loads((run.run / "data_report.json").read_text())
    assert (report["format"], report["skipped"]) == ("tickets", 0)
    assert yaml.safe_load(run.recipe.read_text())["method"]["kind"] == "ia3"
    found = registry.load("exporters", "merged").export(run, tmp_path / "merged", shop.runtime, Recorder())
    assert found.difference < found.allowed
    assert (tmp_path / "merged" / "model.safetensors").stat().st_size == found.bytes


def test_the_objective_teaches_a_student(shop: Workshop) -> None:
    settings = {"objective": "symmetric_kl", "alpha": 0.0}
    result = shop.tuner(shop.distilling(distillation=settings, training={"epochs": 4, "batch_size": 6, "learning_rate": 0.01})).run()
    assert result.scores["after"]["kl"] < 0.8 * result.scores["before"]["kl"]


def test_an_adapter_on_the_head_that_is_no_matrix_is_refused(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer(method={"kind": "ia3", "target_modules": ["lm_head"]}))
    with pytest.raises(ModelError, match="head has an adapter"):
        tuner.run()


@pytest.mark.long
def test_the_tests_of_the_engine_include_them_by_themselves(extras: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "-p", "no:cacheprovider", "-k", "ia3 or symmetric_kl"]
    files = ("test_methods.py", "test_publish_merged.py", "test_distillation_loss.py")
    done = subprocess.run(
        [*command, *(str(ROOT / "tests" / "engine" / file) for file in files)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{extras}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    passed = [line for line in done.stdout.splitlines() if " PASSED" in line]
    assert [sum(name in line for line in passed) for name in ("ia3", "symmetric_kl")] == [7, 4], done.stdout + done.stderr


def test_the_gradient_of_the_page_is_that_of_its_formula(extras: Path) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    p, q = torch.softmax(logits, -1), torch.softmax(torch.randn(3, 7, dtype=torch.float64), -1)
    value = 0.5 * ((p - q) * (p.log() - q.log())).sum()
    value.backward()
    gradient = p.detach().clone()
    ours = registry.load("objectives", "symmetric_kl")()(gradient, q.clone(), (p.log() - q.log()).detach(), torch.zeros(3, 1).double())
    torch.testing.assert_close(ours, value.detach())
    torch.testing.assert_close(gradient, logits.grad)
