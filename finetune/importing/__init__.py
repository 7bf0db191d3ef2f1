"""Configurations of other programs as recipes: which key becomes which, and by name what does not.

    found = import_file("lora.yml")                    # recognised by its keys
    found.recipe, found.of(MISSING)                    # a Recipe, and the lines of what is left out
    found.text()                                       # the recipe as YAML, with a comment for each key of the file

One file a source, with a table from keys to rules (lines.py); the registry names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from finetune import registry
from finetune.errors import RecipeError
from finetune.foreign import printable, reading
from finetune.importing.imported import Imported
from finetune.importing.lines import MAPPED, MISSING, UNKNOWN, Config, Line, Refused, Rule, shown
from finetune.recipe import Recipe, nested, read_yaml

NEEDED = {"model": "model", "dataset.source": "rows to train on"}
FEWEST = 2  # keys that no other source knows, by which a file is recognised


class Source(Protocol):
    """Another program. `keys` has a rule for each key; `defaults` says what it does where a key is left out, if this program differs or
    a rule for another key asks."""

    title: ClassVar[str]
    keys: ClassVar[Mapping[str, Rule]]
    defaults: ClassVar[Mapping[str, Any]]

    def beside(self, config: Config, folder: Path) -> Config:
        """The configuration with what files next to it add."""
        ...


def import_file(path: str | Path, source: str | None = None) -> Imported:
    """A file of the named source, or of the one that its keys tell.

    Raises RecipeError for a file that cannot be read, is not recognised, asks for another kind of training, or has values that no
    recipe can have.
    """
    path = Path(path)
    if source is not None:
        registry.check_name("importers", source)
    with reading(path, RecipeError, hint="A configuration is a YAML file with keys and values."):
        given = {str(key): value for key, value in read_yaml(path).items()}
        name = source or recognised(given, path)
        found: Source = registry.load("importers", name)
        try:
            return _imported(found, given, path)
        except RecipeError as error:
            raise type(error)(f"{printable(path)}: {error.message}", hint=error.hint) from None


def recognised(given: Config, path: Path) -> str:
    """The source that knows most keys of a file that others do not know; raises RecipeError where none or several fit."""
    keys = {name: set(registry.load("importers", name).keys) for name in registry.names("importers")}
    own = {name: known.difference(*(other for each, other in keys.items() if each != name)) for name, known in keys.items()}
    counts = {name: len(own[name] & set(given)) for name in keys}
    best = [name for name, number in counts.items() if number == max(counts.values())]
    if len(best) > 1 or counts[best[0]] < FEWEST:
        known = " or ".join(registry.title("importers", name) for name in keys)
        raise RecipeError(
            f"{printable(path)} does not look like a configuration of {known}.", hint=f"If it is one, say which: --from {' or '.join(keys)}"
        )
    return best[0]


def _imported(source: Source, given: Config, path: Path) -> Imported:
    config = dict(source.beside(given, path.parent))
    empty = [key for key, value in given.items() if value is None or value == ""]
    config = {key: value for key, value in config.items() if key not in empty}
    meant = {**source.defaults, **config}
    lines: list[Line] = []
    for key, value in config.items():
        before = {name: line for line in lines for name in line.keys}
        lines += [_agreed(line, before) for line in _lines(source, meant, key, value)]
    for key, value in source.defaults.items():
        known = {each for line in lines for each in line.keys}
        if key not in config:
            usual = [line for line in _lines(source, meant, key, value) if line.keys.keys() - known]
            lines += [
                Line(line.key, MAPPED, "; ".join(filter(None, [f"{source.title}'s default", line.said])), line.keys) for line in usual
            ]
    keys = {key: value for line in lines for key, value in line.keys.items()}
    for needed, what in NEEDED.items():
        if needed not in keys:  # a recipe has defaults for both, which nobody asked for
            raise Refused(
                f"It names no {what}, so it is not a training run.", hint=f"Which key names it: see the documentation of {source.title}."
            )
    recipe = Recipe.from_layers(nested({"approach": "fine-tuning", **keys}))
    return Imported(path.name, source.title, recipe, keys, lines, empty)


def _agreed(line: Line, before: Mapping[str, Line]) -> Line:
    """The line beside earlier keys that set the same: lists are joined; of two values the first is used, and that is said."""
    for name, value in line.keys.items():
        other = before[name].keys[name] if name in before else value
        if isinstance(value, list) and isinstance(other, list):
            line = replace(line, keys={**line.keys, name: list(dict.fromkeys([*other, *value]))})
        elif value != other:
            return Line(line.key, MISSING, f"{shown(before[name].key)} sets `{name}` too, to {shown(other)}, and comes first")
    return line


def _lines(source: Source, config: Config, key: str, value: Any) -> list[Line]:
    if key in source.keys:
        return list(source.keys[key](config, key, value))
    return [Line(key, UNKNOWN, registry.did_you_mean(shown(key), list(source.keys)).strip())]
