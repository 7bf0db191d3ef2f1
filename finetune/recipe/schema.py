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
from finetune.recipe.layers import SHORT
from finetune.recipe.recipe import Recipe, known_fields
from finetune.recipe.settings import GENERATED, OF_FILES, OF_GENERATED, ColumnsSpec, FromTeacher, Known, fields_of, help_of
from finetune.recipe.teacher_settings import OF_SERVER, OneTeacherSpec, TeacherSpec
from finetune.system.storage import write_whole

FILE = "recipe.schema.json"  # beside a recipe
EDITOR_LINE = f"# yaml-language-server: $schema={FILE}\n"  # the first line of a recipe that has its schema beside it
DISTILS = {"properties": {"approach": {"const": "distillation"}}, "required": ["approach"]}
NULL = {"type": "null"}
TEACHERS = [
    {
        "properties": {"source": {"minLength": 1}, **dict.fromkeys(("server", *OF_SERVER), NULL)},
        "required": ["source"],
    },
    {"properties": {"source": {"maxLength": 0}, "model": {"type": "string"}, "load_in": NULL}, "required": ["server", "model"]},
]
NOTES = ("title", "description", "default")
Schema = dict[str, Any]


@cache
def recipe_schema() -> Schema:
    """The schema of a recipe with all methods, objectives, metrics and trackers that are installed; not to be changed."""
    schema = Recipe.model_json_schema()
    keys, parts = schema["properties"], schema["$defs"]
    del schema["required"], schema["description"], parts["MethodSpec"]  # the method: without one, the approach decides
    methods = registry.names("methods")
    for name in methods:
        parts[name] = _method(name, parts)
    keys["method"] = {**_notes(keys["method"]), "anyOf": [{"enum": methods}, *map(_ref, methods)]}
    for key, name in SHORT.items():
        if key != "method":
            (part,) = _parts(keys[key], schema)
            short = next(way for way in _ways(part["properties"][name]) if way.get("type") == "string")
            keys[key] = {**_notes(keys[key]), "anyOf": [{"minLength": 1, **short}, *_ways(keys[key])]}
    parts["TeacherSpec"]["anyOf"] = TEACHERS
    parts["DatasetSpec"] |= _of_its_source(parts["DatasetSpec"]["properties"])
    parts["ColumnsSpec"]["anyOf"] = [_shape(shape) for shape in ColumnsSpec.SHAPES]
    parts["FromTeacher"]["anyOf"] = [_kept(name) for name in FromTeacher.model_fields]
    keys["model"]["anyOf"].append({"type": "null"})
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A recipe of finetune-cli"}
    return {**head, "if": DISTILS, "then": _only("distillation"), "else": _only("fine-tuning", model="string")}


def _of_its_source(properties: Schema) -> Schema:
    """Which keys only rows that are read have, and which only those that a teacher writes."""
    read = {name: {"const": properties[name].get("default")} for name in OF_FILES}
    written = {"properties": {"source": {"const": GENERATED}}, "required": ["source"]}
    return {"if": written, "then": {"properties": read}, "else": {"properties": dict.fromkeys(OF_GENERATED, NULL)}}


def recipe_keys() -> dict[str, Schema]:
    """Every dotted key that a recipe can have, and what its schema says of it; of methods with a key in common, the first."""
    keys = _keys(recipe_schema(), recipe_schema())
    return {**keys, "method.kind": keys["method"]["anyOf"][0]}


def keys_of_names() -> dict[str, str]:
    """The keys whose values are names of things in the registry, and of which kind these are."""
    marked = {key: mark.kind for key, field in known_fields() for mark in field.metadata if isinstance(mark, Known)}
    return {"method": "methods", **marked}


def keys_of_parts(part: str) -> dict[str, str]:
    """The dotted keys under a key of the recipe, and what each does; of `teachers` those that `teacher` has not.

    Where methods have a key of one name, the first says what it does.
    """
    found = list(fields_of(OneTeacherSpec, "teachers.") if part == "teachers" else known_fields())
    first = dict(reversed(found))
    known = {key: first[key] for key, _ in found}
    if part == "teachers":
        known = {key: field for key, field in known.items() if key.split(".")[1] not in TeacherSpec.model_fields}
    return {key: help_of(field) for key, field in known.items() if key.startswith(f"{part}.") and key != "method.kind"}


def save(recipe: Recipe, path: Path) -> None:
    """Write a recipe, and its schema beside it for editors; a schema that is there already stays. Raises OSError."""
    write_whole(path, EDITOR_LINE + recipe.to_yaml())
    schema = path.with_name(FILE)
    if not schema.exists():
        write_whole(schema, json.dumps(recipe_schema(), indent=2) + "\n")


def _method(name: str, parts: Schema) -> Schema:
    """The keys of one method; without a `kind` they may belong to this method too."""
    method = registry.load("methods", name)
    schema: Schema = method.Spec.model_json_schema()
    parts.update(schema.pop("$defs", {}))
    schema["properties"]["kind"] = {"const": name, "description": method.summary}
    return {**schema, "title": registry.title("methods", name), "description": method.summary}


def _only(approach: str, model: str | None = None) -> Schema:
    """What holds for one approach: method keys without a `kind` are those of its own method, and a student needs distillation."""
    kind = Recipe.from_layers({"approach": approach}).method.kind
    unnamed = {"type": "object", "not": {"required": ["kind"]}}
    distilling = {"properties": dict.fromkeys(("task", "rounds", "until", "on_policy"), NULL)}
    more: Schema = {"model": {"type": model}, "teachers": NULL, "distillation": distilling} if model else {}
    return {"properties": {"method": {"if": unnamed, "then": _ref(kind)}, **more}}


def _shape(columns: set[str]) -> Schema:
    named = {name: {"type": "string" if name in columns else "null"} for name in ColumnsSpec.model_fields}
    return {"properties": named, "required": sorted(columns)}


def _kept(name: str) -> Schema:
    """A student that keeps so much of one thing at least; `size` goes with no other."""
    others = [other for other in FromTeacher.model_fields if other != name and "size" in (other, name)]
    return {"properties": {name: {"not": {"type": "null"}}, **{other: {"type": "null"} for other in others}}, "required": [name]}


def _keys(within: Schema, schema: Schema, prefix: str = "") -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for name, key in within["properties"].items():
        found[prefix + name] = key
        for part in _parts(key, schema):
            found |= {below: about for below, about in _keys(part, schema, f"{prefix}{name}.").items() if below not in found}
    return found


def _parts(key: Schema, schema: Schema) -> list[Schema]:
    return [schema["$defs"][way["$ref"].rpartition("/")[2]] for way in _ways(key) if "$ref" in way]


def _ways(key: Schema) -> list[Schema]:
    """The alternatives of a key, of which most have one."""
    return list(key.get("anyOf") or [{name: value for name, value in key.items() if name not in NOTES}])


def _notes(key: Schema) -> Schema:
    return {name: key[name] for name in NOTES if name in key}


def _ref(part: str) -> Schema:
    return {"$ref": f"#/$defs/{part}"}
