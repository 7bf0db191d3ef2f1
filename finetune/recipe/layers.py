"""Layers of a recipe as plain data: read from a file, given as KEY.PATH=VALUE, merged over each other.

merge({"training": {"epochs": 2}}, parse_override("training.epochs=1"))       # {"training": {"epochs": 1}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from finetune.errors import RecipeError
from finetune.foreign import RECIPE_BYTES, read_small_yaml, reason

SHORT = {"method": "kind", "teacher": "source", "dataset": "source", "upload": "repo"}  # the key that a plain string under these sets
NOT_YAML = (yaml.YAMLError, LookupError, AttributeError)  # the latter for values that do not fit their tags


def in_full(key: str, given: Any) -> Any:
    """`adalora` under `method` as {"kind": "adalora"}; everything that is no short form as it is."""
    short = {**SHORT, "quantize": "format"}
    return {short[key]: given} if isinstance(given, str) and key in short else given


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` written over it; mappings merge, everything else is replaced.

    A mapping that names another `kind` replaces the one below it: its keys belong to another method. So do a student's `size` and the
    other keys of `from_teacher`, which exclude each other. Under a mapping, the short form `teacher: gpt2` means what it means by itself.
    """
    merged = dict(below)
    for key, value in above.items():
        old = in_full(key, merged.get(key))
        same_kind = isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind") in (None, old.get("kind"))
        same_kind = same_kind and not (key == "from_teacher" and ("size" in old) != ("size" in cast(Mapping[str, Any], value)))
        merged[key] = merge(cast(Mapping[str, Any], old), value) if same_kind else value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe file as plain data; raises RecipeError for a missing or broken file."""
    try:
        with path.open("rb") as file:  # which may be a pipe, or a device that never ends
            text = file.read(RECIPE_BYTES + 1)
        if len(text) > RECIPE_BYTES:
            raise ValueError(f"it has more than {RECIPE_BYTES // 1000} kB")
        content = read_small_yaml(text.decode("utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe file {path}.", hint="Check the path, or let the wizard write one: finetune-cli") from None
    except (OSError, UnicodeDecodeError) as error:
        why = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise RecipeError(f"{path} is not a readable text file{why}.", hint="A recipe is a UTF-8 YAML file.") from None
    except (ValueError, RecursionError, TypeError) as error:  # a date that is none, a number with too many digits, deep nesting
        raise RecipeError(f"{path} cannot be read: {reason(error)}.", hint="A recipe has lines such as `seed: 42`.") from None
    except NOT_YAML as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise RecipeError(f"{path}{line}: this is not valid YAML.", hint="A recipe has lines such as `seed: 42`.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must contain recipe keys, not {type(content).__name__}.", hint="A recipe has lines such as `seed: 42`.")
    return content


def parse_override(text: str) -> dict[str, Any]:
    """`training.epochs=1` as {"training": {"epochs": 1}}; the value is read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in path.split(".")):
        raise RecipeError(f"--set {text} is not KEY.PATH=VALUE.", hint="For example: --set training.epochs=1")
    try:
        read: Any = yaml.safe_load(value)
    except (*NOT_YAML, ValueError, RecursionError, TypeError):
        read = value
    return nested({".".join(part.strip() for part in path.split(".")): read})


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """{"training.epochs": 1} as {"training": {"epochs": 1}}."""
    made: dict[str, Any] = {}
    for key, value in keys.items():
        *parents, last = key.split(".")
        place = made
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return made


def dotted(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"training": {"epochs": 1}} as ("training.epochs", 1)."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
