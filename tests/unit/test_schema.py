"""The schema of a recipe: it takes what Recipe takes and refuses what Recipe refuses, and every key says what it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from finetune import cli, registry
from finetune.errors import RecipeError
from finetune.recipe import Recipe, known_keys, merge, nested
from finetune.recipe.schema import keys_of_names, recipe_keys, recipe_schema

SHIPPED = sorted((Path(__file__).parents[2] / "finetune" / "recipe" / "examples").glob("*.yaml"))
DISTILS = {"approach": "distillation"}
VALUES = [0, 1, 2, 7, 8, -1, 3.0, 0.5, 1.5, -0.5, "", "a word", "auto", None, [], ["a word"], [1], [""], {}, {"a": 1}, True, False]
CONCERN_SEVERAL_KEYS: list[tuple[str, Any]] = [  # what only Recipe can check
    ("dataset.encoding", "a word"),
    ("dataset.encoding", "auto"),
    ("dataset.encoding", ""),
    *(("method.init_r", number) for number in VALUES if isinstance(number, int | float)),
    *(("dataset.add_tokens", value) for value in ("a word", "auto", ["a word"])),  # of a distillation
]


def fits(recipe: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(recipe_schema()).is_valid(recipe))


def is_a_recipe(layer: Any) -> bool:
    try:
        Recipe.from_layers(layer)
    except RecipeError:
        return False
    return True


def converted(key: str, value: Any) -> bool:
    """Whether Recipe may read one type as another here, as it does for true and 1."""
    ways = recipe_keys()[key].get("anyOf", [recipe_keys()[key]])
    types = {way.get("type") for way in ways}
    numbers = bool(types & {"integer", "number"})
    return (isinstance(value, bool) and numbers) or (value in (0, 1) and not isinstance(value, bool) and "boolean" in types)


def every_key_with_every_value() -> Iterator[tuple[dict[str, Any], str, Any]]:
    for key in recipe_keys():
        bases: list[dict[str, Any]] = [{}, DISTILS]
        if key.startswith("method."):
            own = key.partition(".")[2]
            methods = [name for name in registry.names("methods") if own in registry.load("methods", name).Spec.model_fields]
            bases = [{"method": {"kind": name}} for name in methods]
        for base in bases:
            for value in VALUES:
                yield base, key, value


def test_it_agrees_with_the_recipe_on_every_key_with_every_sort_of_value() -> None:
    tried, wrong = 0, []
    for base, key, value in every_key_with_every_value():
        if converted(key, value) or any(key == other and value == known for other, known in CONCERN_SEVERAL_KEYS):
            continue
        layer = merge(base, nested({key: value}))
        tried += 1
        if fits(layer) != is_a_recipe(layer):
            wrong.append((layer, "fits the schema" if fits(layer) else "is a recipe"))
    assert wrong == []
    assert tried > 2000


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"method": "qlora"},
        {"method": {"r": 4}},
        {"method": {"freeze": "none"}},
        {**DISTILS, "method": {"freeze": "none"}},
        {**DISTILS, "method": {"r": 4}},
        {"method": {}},
        {"method": {"kind": "lora", "init_r": 12}},
        {"method": {"kind": "adalora", "init_r": 12}},
        {"method": {"kind": "adalorra"}},
        {"teacher": "gpt2"},
        {**DISTILS, "teacher": {"source": "gpt2", "load_in": "8bit"}, "model": "org/student"},
        {**DISTILS, "teacher": {"load_in": "8bit"}},
        {**DISTILS, "teacher": ""},
        {"teacher": {"server": "http://localhost:8000/v1", "model": "m"}, "dataset": {"source": "generated"}},
        {"teacher": {"server": "http://localhost:8000/v1"}, "dataset": {"source": "generated"}},
        {"dataset": {"source": "generated", "topic": "roses", "examples": "rows.jsonl"}},
        {"dataset": "rows.jsonl"},
        {"dataset": ["rows.jsonl"]},
        {"dataset": {"source": ["a.jsonl", "b.jsonl"]}},
        {"dataset": {"columns": {"text": "a", "prompt": None}}},
        {"dataset": {"columns": {"prompt": "a"}}},
        {"dataset": {"columns": {"prompt": "a", "completion": "b"}}},
        {"dataset": {"columns": {"text": "a", "messages": "b"}}},
        {"upload": "ada/model"},
        {"upload": {"repo": "ada/model/three"}},
        {"upload": {"private": True}},
        {"model": {"from_teacher": {"layers": 20}}},
        {**DISTILS, "model": {"from_teacher": {"layers": 20}}},
        {**DISTILS, "model": {"from_teacher": {"layers": 0.67}}},
        {**DISTILS, "model": {"from_teacher": {"layers": 1.5}}},
        {**DISTILS, "model": {"from_teacher": {"layers": 20, "ffn": 0.75, "heads": 6}}},
        {**DISTILS, "model": {"from_teacher": {"size": 0.75, "layers": None}}},
        {**DISTILS, "model": {"from_teacher": {"size": 0.75, "layers": 20}}},
        {**DISTILS, "model": {"from_teacher": {"size": None}}},
        {**DISTILS, "model": {"from_teacher": {}}},
        {**DISTILS, "model": None},
        {"model": None},
        {"distillation": {"objective": "reverse_kl"}},
        {"distillation": {"objective": "reverse-kl"}},
        {"benchmark": {"metrics": ["rouge"]}},
        {"benchmark": {"metrics": ["bleu"]}},
        {"training": {"report_to": "wandb"}},
        {"training": {"report_to": ["wandb", "nobody"]}},
        {"training": {"epoch": 1}},
        {"trainin": {"epochs": 1}},
        {"token": "hf_secret"},
    ],
    ids=json.dumps,
)
def test_it_agrees_with_the_recipe_on_short_forms_and_typos(layer: dict[str, Any]) -> None:
    assert fits(layer) == is_a_recipe(layer)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_and_written_recipes_fit_and_a_typo_does_not(path: Path) -> None:
    shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
    written = yaml.safe_load(Recipe.load(path).to_yaml())
    for recipe in (shipped, written):
        assert fits(recipe)
        assert not fits({**recipe, "sead": 1})
        assert not fits({**recipe, "training": {**recipe["training"], "epoch": 1}})


def test_every_key_is_described_and_is_one_of_the_recipes() -> None:
    assert set(recipe_keys()) == set(known_keys())
    parts = {"": recipe_schema(), **recipe_schema()["$defs"]}
    keys = {f"{part}.{name}": key for part, schema in parts.items() for name, key in schema["properties"].items()}
    assert [name for name, key in keys.items() if not key.get("description")] == []


def test_defaults_ranges_and_names_are_there() -> None:
    keys = recipe_keys()
    assert keys["training.epochs"]["default"] == 3
    assert keys["training.epochs"]["anyOf"] == [{"const": "auto", "type": "string"}, {"type": "number", "exclusiveMinimum": 0}]
    assert keys_of_names() == {
        "method": "methods",
        "distillation.objective": "objectives",
        "distillation.quantize.format": "grids",
        "training.report_to": "trackers",
        "benchmark.metrics": "metrics",
    }
    for key, kind in keys_of_names().items():
        ways = keys[key].get("anyOf", [keys[key]])
        named = [way.get("items", way)["enum"] for way in ways if "enum" in way.get("items", way)]
        assert named
        assert all(names == registry.names(kind) for names in named), key


def test_methods_of_other_packages_are_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = registry._outside
    theirs = {"methods": {"mine": "finetune.methods.full:Full"}}
    monkeypatch.setattr(registry, "_outside", lambda kind: theirs.get(kind) or outside(kind))
    recipe_schema.cache_clear()
    try:
        assert recipe_schema()["$defs"]["mine"]["properties"]["kind"]["const"] == "mine"
        assert fits({"method": {"kind": "mine", "freeze": "none"}})
        assert fits({"method": "mine"})
    finally:
        recipe_schema.cache_clear()


def test_the_command_prints_it_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(recipe_schema()))
    jsonschema.Draft202012Validator.check_schema(printed)
