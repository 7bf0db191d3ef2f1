"""What an import gives: the recipe, a line for each key of the file, and both as one YAML text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from finetune.formatting import in_lines, strip_control_chars
from finetune.importing.lines import MAPPED, MISSING, RUNTIME, SAME, UNKNOWN, Line, shown
from finetune.recipe import Recipe, known_keys

WIDTH = 118  # of a comment
SECTIONS = {
    RUNTIME: "Options of the command, since they belong to a machine",
    MISSING: "Not supported, and left out",
    UNKNOWN: "Not known, and left out",
    SAME: "Needs no key here",
}


@dataclass(frozen=True)
class Imported:
    """`keys` are the recipe keys that were set, `empty` the keys of the file without a value."""

    file: str
    title: str
    recipe: Recipe
    keys: Mapping[str, Any]
    lines: Sequence[Line]
    empty: Sequence[str]

    def of(self, how: str) -> list[Line]:
        return [line for line in self.lines if line.how == how]

    @property
    def options(self) -> list[str]:
        """What to add to `finetune-cli run`."""
        return list(dict.fromkeys(line.option for line in self.of(RUNTIME)))

    def said(self, how: str) -> list[str]:
        """`key, key: what is said of them`, in the order of the file."""
        groups: dict[str, list[str]] = {}
        for line in self.of(how):
            said = ", which ".join(filter(None, [line.option, line.said]))
            groups.setdefault(said, []).append(strip_control_chars(shown(line.key)))
        return [", ".join(dict.fromkeys(keys)) + (f": {said}" if said else "") for said, keys in groups.items()]

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "file": self.file,
            "from": self.title,
            "recipe": self.recipe.model_dump(mode="json"),
            "options": self.options,
            "keys": [{"key": line.key, "became": line.how, "recipe": dict(line.keys), "said": line.said} for line in self.lines],
            "empty": list(self.empty),
        }

    def text(self) -> str:
        """The recipe as YAML: the keys that were set, each with where it comes from, and everything else of the file in comments."""
        parts = [f"# Made from {strip_control_chars(shown(self.file))}, a configuration of {self.title}.", *self._recipe()]
        for how, heading in SECTIONS.items():
            if said := self.said(how):
                parts += ["", f"# {heading}:"]
                parts += [line for text in said for line in _comment(text)]
        if self.empty:
            parts += ["", *_comment(f"Empty there: {', '.join(strip_control_chars(shown(key)) for key in self.empty)}.", "# ")]
        return "\n".join(parts) + "\n"

    def _recipe(self) -> Iterator[str]:
        order = {key: number for number, key in enumerate(dict.fromkeys(known_keys()))}
        comments: dict[str, list[str]] = {}
        for line in self.of(MAPPED) + self.of(MISSING):
            for key in line.keys:
                why = f" ({line.said})" if line.said and line.how == MAPPED else ""
                comments.setdefault(key, []).append(strip_control_chars(shown(line.key)) + why)
        yield "approach: fine-tuning"
        section = ""
        for key in sorted(self.keys, key=lambda key: (list(Recipe.model_fields).index(key.split(".")[0]), order[key])):
            *parents, name = key.split(".")
            for depth, parent in enumerate(parents):
                if not f"{section}.".startswith(".".join(parents[: depth + 1]) + "."):
                    yield f"{'  ' * depth}{parent}:"
            section = ".".join(parents)
            yield f"{'  ' * len(parents)}{name}: {_flow(self.keys[key])}  # {', '.join(dict.fromkeys(comments.get(key, [])))}"


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).strip()
    return text.removesuffix("...").strip()


def _comment(text: str, begin: str = "#   ") -> list[str]:
    return in_lines(text, WIDTH, begin, f"{begin}  ")
