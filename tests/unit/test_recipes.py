"""The shipped recipes: valid, what the wizard's defaults say they are, and inside the wheel."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import RecipeError
from finetune.hardware.machine import Glance
from finetune.recipe import Recipe, merge, parse_override, schema
from finetune.runtime import RuntimeOptions
from finetune.system import storage
from finetune.wizard.defaults import defaults
from finetune.wizard.host import HostInfo

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "finetune" / "recipe" / "examples").glob("*.yaml"))
LAPTOP = HostInfo(Glance("a processor", 2, 16 * 2**30, 12 * 2**30, 100 * 2**30, None, 0), False, RuntimeOptions())
WORKSTATION = HostInfo(Glance("a processor", 16, 64 * 2**30, 60 * 2**30, 900 * 2**30, "a GPU", 24 * 2**30), True, RuntimeOptions())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_and_says_what_it_is(path: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    recipe.save(tmp_path / "again.yaml")
    assert Recipe.load(tmp_path / "again.yaml") == recipe


def test_a_recipe_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    Recipe.from_layers({"seed": 1}).save(path)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "to_disk", full)
    for save in (Recipe.save, schema.save):
        with pytest.raises(OSError, match="No space"):
            save(Recipe.from_layers({"seed": 2}), path)
    assert Recipe.load(path).seed == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "here", "approach"),
    [
        ("code-comments", LAPTOP, "fine-tuning"),
        ("smaller-model", LAPTOP, "distillation"),
        ("distil-gpt2-wikitext-gpu", WORKSTATION, "distillation"),
    ],
)
def test_a_recipe_named_after_a_default_is_that_default(name: str, here: HostInfo, approach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.wizard.defaults.version", lambda _: "2.13.0")  # a torch that can use a GPU
    shipped = ROOT / "finetune" / "recipe" / "examples" / f"{name}.yaml"
    assert Recipe.load(shipped) == Recipe.from_layers(defaults(here, approach, fresh_folder=False))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "finetune", checkout / "finetune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("finetune_cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(checkout)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = (".py", ".pyi", ".yaml", ".typed")
    source = {path.relative_to(checkout).as_posix() for path in (checkout / "finetune").rglob("*") if path.suffix in kinds}
    assert packed == source | {"finetune_cli.py"}
    assert len([name for name in packed if name.endswith(".yaml")]) == len(RECIPES) >= 5


def test_a_key_of_the_method_means_the_method_of_the_approach() -> None:
    recipe = Recipe.from_layers({"approach": "distillation", "method": {"freeze": "none"}})
    assert recipe.method.model_dump() == {"kind": "full", "freeze": "none"}
    assert Recipe.from_layers({"method": {"r": 4}}).method.model_dump()["kind"] == "lora"


@pytest.mark.parametrize(
    ("short", "override", "key", "meant"),
    [
        ({"method": "adalora"}, "method.r=4", "method", {"kind": "adalora", "r": 4}),
        (
            {"approach": "distillation", "teacher": "gpt2-medium", "model": "gpt2"},
            "teacher.load_in=8bit",
            "teacher",
            {"source": "gpt2-medium", "load_in": "8bit"},
        ),
        ({"dataset": "rows.jsonl"}, "dataset.samples=5", "dataset", {"source": "rows.jsonl", "samples": 5}),
        ({"upload": "ada/model"}, "upload.private=false", "upload", {"repo": "ada/model", "private": False}),
    ],
)
def test_a_short_form_stands_when_another_key_beside_it_is_set(
    short: dict[str, Any], override: str, key: str, meant: dict[str, Any]
) -> None:
    assert Recipe.from_layers(short) == Recipe.from_layers({**short, key: {name: meant[name] for name in list(meant)[:1]}})
    assert Recipe.from_layers(short, parse_override(override)) == Recipe.from_layers({**short, key: meant})


def test_a_method_set_by_name_and_then_by_key_is_that_method() -> None:
    given = [parse_override("method=qlora"), parse_override("method.r=8")]
    method = Recipe.from_layers(*given).method.model_dump()
    assert (method["kind"], method["r"]) == ("qlora", 8)
    assert merge(*given) == {"method": {"kind": "qlora", "r": 8}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("benchmark.max_new_tokens=0", "benchmark.max_new_tokens must be 'auto' or at least 1, not 0."),
        ("benchmark.max_new_tokens=-3", "benchmark.max_new_tokens must be 'auto' or at least 1, not -3."),
        ("benchmark.metrics=[]", "benchmark.metrics must have at least 1 item."),
    ],
)
def test_a_benchmark_that_would_measure_nothing_is_refused(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        Recipe.from_layers(parse_override(override))


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"layers": 1.5}, "model.from_teacher.layers must be a whole number, or a share between 0 and 1, not 1.5."),
        ({"size": 2}, "model.from_teacher.size must be less than 1, not 2."),
        ({"size": 0.75, "ffn": 864}, "model.from_teacher has `size`, which chooses layers and width itself: leave out the other keys."),
        ({}, "model.from_teacher must name what the student keeps: `layers`, `ffn`, `heads` or `size`."),
        ({"width": 2}, "model.from_teacher.width is not a recipe key."),
    ],
)
def test_what_a_student_cannot_keep_is_said_of_its_own_key(kept: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers({"approach": "distillation", "model": {"from_teacher": kept}})
    assert refused.value.message.startswith(said)


@pytest.mark.parametrize("value", ["!!bool maybe", "!!int ''", "!!timestamp soon", "[", "2001-13-45"])
def test_a_value_that_is_no_yaml_is_one_sentence(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"seed: {value}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"a\.yaml.*(not valid YAML|cannot be read)"):
        Recipe.load(tmp_path / "a.yaml")
    assert parse_override(f"seed={value}") == {"seed": value}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("all-linear", "method.target_modules must be 'auto' for all linear layers, not 'all-linear'."),
        (["all-linear"], "method.target_modules must be 'auto' for all linear layers."),
        ([], "method.target_modules must be 'auto' or have at least 1 item."),
        (["q_proj"], None),
        ("auto", None),
    ],
)
@pytest.mark.parametrize("kind", ["lora", "qlora", "adalora"])
def test_layers_for_an_adapter_are_named_or_auto_whatever_others_call_it(kind: str, value: Any, said: str | None) -> None:
    layer = {"method": {"kind": kind, "target_modules": value}}
    if said is None:
        assert Recipe.from_layers(layer).method.target_modules == value  # type: ignore[attr-defined]
    else:
        with pytest.raises(RecipeError) as error:
            Recipe.from_layers(layer)
        assert error.value.message == said
