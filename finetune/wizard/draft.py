"""The unfinished recipe: nested keys, the one check of an answer, and the one way to ask for a setting.

problem(draft, "training.epochs", "0")        # "Must be greater than 0."
put(draft, "training.epochs", "1")            # the draft with {"training": {"epochs": 1.0}} over it
ask_field(draft, prompter, "training.epochs") # the same with a person's answer
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe import Recipe, merge, nested
from finetune.recipe.settings import GENERATED, Known, help_of, label, usual
from finetune.recipe.teacher_settings import TOP_K
from finetune.wizard.asking.prompter import Check, Choice, Complete, Prompter, Question, Read, anything
from finetune.wizard.help_texts import more_about, notes_of

Draft = dict[str, Any]
# What people type where a recipe has null.
NULL = {"dataset.samples": "all", "benchmark.task_rows": "all", "dataset.topic": "anything", "dataset.examples": "none"}
NULL |= {"teacher.top_k": str(TOP_K)}


def layer(key: str, value: Any) -> Draft:
    """`training.epochs`, 1 -> {"training": {"epochs": 1}}."""
    return nested({key: value})


def get(draft: Mapping[str, Any], key: str) -> Any:
    """The value the finished recipe would have, default or not."""
    return reduce(getattr, key.split("."), Recipe.from_layers(draft))


def imitates(draft: Mapping[str, Any]) -> bool:
    """Whether the model learns from another one, and not from rows."""
    return draft["approach"] == "distillation" and not Recipe.from_layers(draft).teaches_itself


def has_writer(draft: Mapping[str, Any]) -> bool:
    """Whether one other model teaches, here or on a server, which could write rows too, or answers to prompts."""
    recipe = Recipe.from_layers(draft)
    return recipe.grader is not None or (len(recipe.all_teachers) == 1 and not recipe.teaches_itself)


def written_by_teacher(draft: Draft) -> Draft:
    """The draft with rows that the teacher writes, as many as are proposed for it."""
    kept = {key: value for key, value in draft.get("dataset", {}).items() if key in ("max_length", "held_out")}
    return {**draft, "dataset": {**kept, "source": GENERATED}}


def parsed(draft: Draft, key: str, value: Any) -> Any:
    """An answer as the recipe reads it: "5.0" rows are 5; raises RecipeError."""
    return get(merge(draft, layer(key, _read(key, value))), key)


def put(draft: Draft, key: str, value: Any) -> Draft:
    """The draft with one more answer, typed by the recipe; raises RecipeError."""
    return merge(draft, layer(key, parsed(draft, key, value)))


def problem(draft: Draft, key: str, value: Any) -> str | None:
    """Why the recipe does not accept this answer, as a sentence; None if it does."""
    try:
        Recipe.from_layers(draft, layer(key, _read(key, value)))
    except RecipeError as error:
        reason = error.message.removeprefix(f"{key} ").removesuffix(f", not {value!r}.").removesuffix(".")
        return f"{reason[:1].upper()}{reason[1:]}."
    return None


def shown(value: Any, key: str = "") -> str:
    """A value as a person would type it."""
    if value is None:
        return NULL.get(key, "all")
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def field_of(draft: Mapping[str, Any], key: str) -> FieldInfo:
    """The setting behind a recipe key; under `method`, that of the method chosen so far."""
    *path, name = key.split(".")
    field: FieldInfo = type(reduce(getattr, path, Recipe.from_layers(draft))).model_fields[name]
    return field


def _is_list(kind: Any) -> bool:
    """Whether a type is a list, also one with a condition."""
    return get_origin(kind) is list or (get_origin(kind) is Annotated and _is_list(get_args(kind)[0]))


def ask_field(
    draft: Draft,
    prompter: Prompter,
    key: str,
    *,
    help: str = "",
    more: str = "",
    default: str | None = None,
    check: Check = anything,
    complete: Complete = None,
    read: Read = str,
    only_usual: bool = False,
) -> Draft:
    """Ask for one recipe key, as its field says: label, help, choices, yes or no, or a line that the recipe checks, and then `check`.

    What the recipe would not accept beside the other answers is not offered, and F1 tells why; if only one value is left, it is shown, not
    asked. `only_usual` refuses what is outside the usual range.
    """
    field, now = field_of(draft, key), get(draft, key)
    name = label(key.rpartition(".")[2], field)
    names = any(map(_is_list, (field.annotation, *get_args(field.annotation))))
    between = usual(field) if only_usual else None

    def wrong(answer: Any) -> str | None:
        found = problem(draft, key, _names(answer) if names else answer)
        if found and (meant := next((number for number in _numbers(str(answer)) if problem(draft, key, number) is None), None)):
            return f"Type it as {meant}."
        if found is None and between and not between.low <= parsed(draft, key, answer) <= between.high:
            return f"Must be from {between}."
        return found or check(answer)

    choices = choices_of(field, notes_of(key))
    refused = {choice.value: said for choice in choices if (said := problem(draft, key, choice.value))}
    offered = [choice for choice in choices if choice.value not in refused]
    if refused and len(offered) == 1:
        prompter.note([("class:quiet", f"{name}: {offered[0].title}. Nothing else fits your other answers.")])
        return draft
    not_here = [
        f"Not possible here: {choice.title} ({refused[choice.value].rstrip('.')})." for choice in choices if choice.value in refused
    ]
    answer = prompter.ask(
        Question(
            key,
            name,
            default=now if field.annotation is bool else default or shown(now, key),
            choices=offered,
            check=wrong,
            help=help or _without_null(help_of(field)),
            more="\n".join(filter(None, [more or more_about(key), *not_here])),
            complete=complete,
            read=read,
        )
    )
    return put(draft, key, _names(str(answer)) if names else answer)


def choices_of(field: FieldInfo, notes: Mapping[str, str]) -> list[Choice]:
    """The values of a setting, if it is one of a few names, with notes beside them."""
    if get_origin(field.annotation) is Literal:
        return [Choice(str(option), str(option), notes.get(str(option), "")) for option in get_args(field.annotation)]
    kinds = [mark.kind for mark in field.metadata if isinstance(mark, Known)] if field.annotation is str else []
    return [Choice(*found) for kind in kinds for found in registry.choices(kind)]


def _without_null(help: str) -> str:
    """What a recipe has for "all" and the like is not what people type."""
    told, null, _ = help.partition("; null")
    return f"{told}." if null else told


def _numbers(text: str) -> list[str]:
    """What a number with commas or a percent sign may mean, as the recipe reads it."""
    thousands = [text.replace(",", "")] if re.fullmatch(r"\d{1,3}(,\d{3})+", text) else []
    decimals = [text.replace(",", ".")] if re.fullmatch(r"\d*,\d+([eE][+-]?\d+)?", text) else []
    share = re.fullmatch(r"(\d+(?:[.,]\d+)?) ?%", text)
    return [*thousands, *decimals, *([f"{float(share[1].replace(',', '.')) / 100:g}"] if share else [])]


def _names(text: str) -> str | list[str]:
    """Names between commas; the words auto and none stay words."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names[0] if names in (["auto"], ["none"]) else names


def _read(key: str, value: Any) -> Any:
    return None if key in NULL and value == NULL[key] else value
