"""The recipes that come with this package, for people to start from: each is a file with a comment that says for whom it is.

[each.name for each in starting_recipes()][:2]      # ["documents", "support-answers"]
starting_recipe("no-data").text                     # the file, with its comment
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RecipeError
from finetune.registry import did_you_mean

FOLDER = Path(__file__).parent / "examples"
TASKS = (  # by what people want to do; the others show a method or a setting, and come after these
    "documents",
    "support-answers",
    "classification",
    "structured-output",
    "code-comments",
    "smaller-model",
    "expert-to-small",
    "no-data",
)


@dataclass(frozen=True)
class Starting:
    """`about` is the first sentence of the file's comment: what the recipe makes, in a line."""

    name: str
    text: str

    @property
    def about(self) -> str:
        comment = " ".join(line.lstrip("# ") for line in self.text.splitlines() if line.startswith("#"))
        return comment.partition(". ")[0].rstrip(".")


def starting_recipes() -> list[Starting]:
    """Those of TASKS in their order, then the others by name."""
    names = [path.stem for path in sorted(FOLDER.glob("*.yaml"))]
    return [_read(name) for name in (*TASKS, *(name for name in names if name not in TASKS))]


def starting_recipe(name: str) -> Starting:
    """Raises RecipeError if there is none of that name."""
    known = {each.name: each for each in starting_recipes()}
    wanted = name.removesuffix(".yaml")
    if wanted not in known:
        raise RecipeError(
            f"There is no recipe {name!r} to start from.{did_you_mean(wanted, list(known))}", hint=f"Choose from {', '.join(known)}."
        )
    return known[wanted]


def _read(name: str) -> Starting:
    return Starting(name, (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
