"""What a recipe can hold, as JSON Schema (draft 2020-12): editors complete and check recipes by it.

recipe_schema()["properties"]["seed"]           # {"type": "integer", "minimum": 0, "default": 42, "description": ...}
recipe_keys()["training.scheduler"]["enum"]     # ["cosine", "linear", ...]

It describes recipes as they are written: Recipe also takes "3" for 3. What concerns several keys, such as that AdaLoRA's `init_r` is
larger than its `r`, only Recipe checks.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from finetune import registry
from finetune.recipe import SHORT, ColumnsSpec, Recipe

FILE = "recipe.schema.json"  # beside a recipe
EDITOR_LINE = f"# yaml-language-server: $schema={FILE}\n"  # the first line of a recipe that has its schema beside it
FROM_REGISTRY = {  # recipe keys whose values are names of things in the registry
    "method": "methods",
    "distillation.objective": "objectives",
    "benchmark.metrics": "metrics",
    "training.report_to": "trackers",
}
DISTILS = {"properties": {"approach": {"const": "distillation"}}, "required": ["approach"]}
Schema = dict[str, Any]


@cache
def recipe_schema() -> Schema:
    """The schema of a recipe with all methods, objectives, metrics and trackers that are installed; not to be changed."""
    schema = Recipe.model_json_schema()
    keys, parts = schema["properties"], schema["$defs"]
    del schema["required"], schema["description"], parts["Spec"]  # the method: without one, the approach decides
    methods = registry.names("methods")
    for name in methods:
        parts[name] = _method(name, parts)
    keys["method"] = {
        **_notes(keys["method"]),
        "anyOf": [{"enum": methods}, *map(_ref, methods)],
    }
    for key, name in SHORT.items():
        if key != "method":
            (part,) = _parts(keys[key], schema)
            short = next(way for way in _ways(part["properties"][name]) if way.get("type") == "string")
            keys[key] = {**_notes(keys[key]), "anyOf": [_without(short, "default", "description"), *_ways(keys[key])]}
    for key, kind in FROM_REGISTRY.items():
        for way in _ways(_keys(schema)[key]):
            if key != "method" and way.get("type") != "null":
                way.get("items", way)["enum"] = registry.names(kind)
    parts["ColumnsSpec"]["anyOf"] = [_shape(shape) for shape in ColumnsSpec.SHAPES]
    keys["model"]["anyOf"].append({"type": "null"})
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A recipe of finetune-cli"}
    return {**head, **_without_titles(schema), "if": DISTILS, "then": _only("distillation"), "else": _only("fine-tuning", model="string")}


def recipe_keys() -> dict[str, Schema]:
    """Every dotted key that a recipe can have, and what its schema says of it; of methods with a key in common, the first."""
    keys = _keys(recipe_schema())
    return {**keys, "method.kind": keys["method"]["anyOf"][0]}


def save(recipe: Recipe, path: Path) -> None:
    """Write a recipe, and its schema beside it for editors; a schema that is there already stays. Raises OSError."""
    path.write_text(EDITOR_LINE + recipe.to_yaml(), encoding="utf-8")
    schema = path.with_name(FILE)
    if not schema.exists():
        schema.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")


def _method(name: str, parts: Schema) -> Schema:
    """The keys of one method; without a `kind` they may belong to this method too."""
    method = registry.load("methods", name)
    schema: Schema = method.Spec.model_json_schema()
    parts.update(schema.pop("$defs", {}))
    about = f"{registry.title('methods', name)}: {method.summary}"
    schema["properties"]["kind"] = {"const": name, "description": about}
    return {**schema, "description": about}


def _only(approach: str, model: str | None = None) -> Schema:
    """What holds for one approach: method keys without a `kind` are those of its own method, and a student needs distillation."""
    kind = Recipe.from_layers({"approach": approach}).method.kind  # type: ignore[attr-defined]
    unnamed = {"type": "object", "not": {"required": ["kind"]}}
    return {"properties": {"method": {"if": unnamed, "then": _ref(kind)}, **({"model": {"type": model}} if model else {})}}


def _shape(columns: set[str]) -> Schema:
    named = {name: {"type": "string" if name in columns else "null"} for name in ColumnsSpec.model_fields}
    return {"properties": named, "required": sorted(columns)}


def _keys(schema: Schema, within: Schema | None = None, prefix: str = "") -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for name, key in (within or schema)["properties"].items():
        found[prefix + name] = key
        for part in _parts(key, schema):
            found = {**_keys(schema, part, f"{prefix}{name}."), **found}
    return found


def _parts(key: Schema, schema: Schema) -> list[Schema]:
    return [schema["$defs"][way["$ref"].rpartition("/")[2]] for way in _ways(key) if "$ref" in way]


def _ways(key: Schema) -> list[Schema]:
    """The alternatives of a key, of which most have one."""
    return list(key.get("anyOf") or [_without(key, "default", "description") if "$ref" in key else key])


def _ref(part: str) -> Schema:
    return {"$ref": f"#/$defs/{part}"}


def _notes(key: Schema) -> Schema:
    return {name: key[name] for name in ("description", "default") if name in key}


def _without(schema: Schema, *names: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in names}


def _without_titles(schema: Any) -> Any:
    """Without pydantic's titles, which repeat the names of keys; a key called `title` is no title."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_titles(value) for name, value in schema.items() if name != "title" or isinstance(value, dict)}
