"""The unfinished recipe: nested keys, and the one rule that checks an answer.

problem(draft, "training.epochs", "0")        # "Must be greater than 0."
put(draft, "training.epochs", "1")            # the draft with {"training": {"epochs": 1.0}} over it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.errors import RecipeError
from finetune.recipe import Recipe, merge
from finetune.wizard.prompter import Prompter

Draft = dict[str, Any]


def layer(key: str, value: Any) -> Draft:
    """`training.epochs`, 1 -> {"training": {"epochs": 1}}."""
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return dict(nested)


def get(draft: Mapping[str, Any], key: str) -> Any:
    """The value the finished recipe would have, default or not."""
    value: Any = Recipe.from_layers(draft)
    for part in key.split("."):
        value = getattr(value, part)
    return value


def parsed(draft: Draft, key: str, value: Any) -> Any:
    """An answer as the recipe reads it: "5.0" rows are 5; raises RecipeError."""
    return get(merge(draft, layer(key, _read(key, value))), key)


def put(draft: Draft, key: str, value: Any) -> Draft:
    """The draft with one more answer, typed by the recipe; raises RecipeError."""
    return merge(draft, layer(key, parsed(draft, key, value)))


def problem(draft: Draft, key: str, value: Any) -> str | None:
    """What the recipe says against this answer, as a sentence; None if it is fine."""
    try:
        Recipe.from_layers(draft, layer(key, _read(key, value)))
    except RecipeError as error:
        reason = error.message.removeprefix(f"{key} ").removesuffix(f", not {value!r}.").removesuffix(".")
        return f"{reason[:1].upper()}{reason[1:]}."
    return None


def shown(value: Any) -> str:
    """A value as a person would type it."""
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def ask_field(
    draft: Draft,
    prompter: Prompter,
    key: str,
    question: str,
    help: str = "",
    more: str = "",
    between: tuple[float, float] | None = None,
) -> Draft:
    """Ask for one recipe key as text, checked by the recipe itself; `between` is a narrower range that makes sense to a person."""

    def check(text: str) -> str | None:
        wrong = problem(draft, key, text)
        if wrong is None and between and not between[0] <= parsed(draft, key, text) <= between[1]:
            return f"Must be from {between[0]:g} to {between[1]:g}."
        return wrong

    answer = prompter.text(key, question, default=shown(get(draft, key)), validate=check, help=help, more=more)
    return put(draft, key, answer)


def _read(key: str, value: Any) -> Any:
    return None if key == "dataset.samples" and value == "all" else value
