"""The shipped recipes: valid, what the wizard's defaults say they are, and inside the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from finetune.models.machine import Glance
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.wizard.defaults import defaults
from finetune.wizard.here import Here

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "finetune" / "recipes").glob("*.yaml"))
LAPTOP = Here(Glance("a processor", 2, 16 * 2**30, 12 * 2**30, 100 * 2**30, None, 0), False, RuntimeOptions())
WORKSTATION = Here(Glance("a processor", 16, 64 * 2**30, 60 * 2**30, 900 * 2**30, "a GPU", 24 * 2**30), True, RuntimeOptions())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_and_says_what_it_is(path: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    recipe.save(tmp_path / "again.yaml")
    assert Recipe.load(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("name", "here", "approach"),
    [
        ("finetune-starter-cpu", LAPTOP, "fine-tuning"),
        ("distil-starter-cpu", LAPTOP, "distillation"),
        ("distil-gpt2-wikitext-gpu", WORKSTATION, "distillation"),
    ],
)
def test_a_recipe_named_after_a_default_is_that_default(name: str, here: Here, approach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.wizard.defaults.version", lambda _: "2.13.0")  # a torch that can use a GPU
    assert Recipe.load(ROOT / "finetune" / "recipes" / f"{name}.yaml") == Recipe.from_layers(defaults(here, approach, fresh_folder=False))


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "finetune", checkout / "finetune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("finetune_cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(checkout)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {path.relative_to(checkout).as_posix() for path in (checkout / "finetune").rglob("*") if path.suffix in (".py", ".yaml")}
    assert packed == source | {"finetune_cli.py"}
    assert len([name for name in packed if name.endswith(".yaml")]) == len(RECIPES) >= 5


def test_a_key_of_the_method_means_the_method_of_the_approach() -> None:
    recipe = Recipe.from_layers({"approach": "distillation", "method": {"freeze": "none"}})
    assert recipe.method.model_dump() == {"kind": "full", "freeze": "none"}
    assert Recipe.from_layers({"method": {"r": 4}}).method.model_dump()["kind"] == "lora"
