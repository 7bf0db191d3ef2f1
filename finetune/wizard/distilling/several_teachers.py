"""Several teachers instead of one: who they are, and whether they teach every row together or each its own.

draft = ask(draft, prompter, "./docs_expert", check=..., complete=...)      # the first teacher is already named
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from finetune.errors import RecipeError
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.prompter import Check, Choice, Prompter
from finetune.wizard.draft import Draft, put

PLAIN, SEVERAL, ROUNDS, OWN, NOTHING = "plain", "several", "rounds", "own", "nothing"
TOGETHER, APART = "together", "apart"
WAYS = [
    Choice(PLAIN, "One teacher", "the student imitates one model"),
    Choice(SEVERAL, "Several teachers", "it learns from two or more models at once"),
    Choice(ROUNDS, "In rounds", "a small student: layers are cut, it is trained, more are cut"),
    Choice(OWN, "On its own answers", "the student writes, and the teacher says what it would have written"),
    Choice(NOTHING, "From nothing", "without data: the teacher writes the rows too"),
]
MORE_WAYS = (
    "One teacher suits most runs.\n"
    "Several are for models that are good at different things, such as one expert for each kind of text. All need the same tokenizer, "
    "and they are in memory one after another.\n"
    "In rounds suits students of half the layers and less, which do not survive one cut; it takes as many trainings as there are rounds.\n"
    "On its own answers: after one pass over your rows, half of the rows are what the student itself answers to your prompts, so that it "
    "learns where its own answers go wrong. It takes about twice as long.\n"
    "From nothing: the teacher first writes prompts, on a topic of yours if you like, and answers them."
)
MORE_DIVIDED = (
    "Together: each token is compared with the mean of what all teachers say. Good for teachers that know the same task.\n"
    "Each its own rows: a column of your data says which row belongs to whom. Better for experts of different fields, which contradict "
    "each other outside their own."
)
MORE_COLUMN = "For example a column domain with docs in some rows and maths in the others: then docs are the rows of the one expert."
MORE_WEIGHTS = "One number for each teacher, in their order: 2, 1 counts the first twice. They are scaled to add up to one."


def ask_way(prompter: Prompter) -> str:
    """PLAIN, SEVERAL, ROUNDS, OWN or NOTHING."""
    return prompter.select("distillation.way", "How should it be distilled?", WAYS, default=PLAIN, more=MORE_WAYS)


def ask(draft: Draft, prompter: Prompter, first: str, *, check: Check, complete: Callable[[str], Sequence[str]]) -> Draft:
    """The other teachers, and whose rows are whose."""

    def wrong(text: str) -> str | None:
        names = _listed(text)
        if not names:
            return "Type at least one more model."
        if twice := next((name for name in names if [first, *names].count(name) > 1), None):
            return f"{twice} is named twice."
        return next(filter(None, map(check, names)), None)

    typed = prompter.text(
        "teachers.others",
        "The other teachers",
        default="",
        check=wrong,
        help="Names or folders; separate several with commas.",
        more="A student made from the teacher is made from the first. The others may be of any size, with the same tokenizer.",
        complete=complete,
        read=dropped,
    )
    names = [first, *_listed(typed)]
    divided = prompter.select(
        "teachers.divided",
        "What does each teach?",
        [
            Choice(TOGETHER, "All of them every row", "the student imitates their mean"),
            Choice(APART, "Each its own rows", "a column of the data says whose row it is"),
        ],
        default=TOGETHER,
        more=MORE_DIVIDED,
    )
    teachers: list[dict[str, Any]] = [{"source": name} for name in names]
    if divided == APART:
        column = prompter.text("teachers.column", "Column that says whose row it is", default="", check=_needed, more=MORE_COLUMN)
        values: list[str] = []
        for number, name in enumerate(names, 1):
            asked, free = f"Value of {column} in the rows of {name}", partial(_value_problem, values=tuple(values))
            values.append(prompter.text(f"teachers.value{number}", asked, default="", check=free, more=MORE_COLUMN))
        teachers = [{**each, "rows": {"column": column, "equals": value}} for each, value in zip(teachers, values, strict=True)]
    return {**draft, "teacher": None, "teachers": teachers}


def ask_weights(draft: Draft, prompter: Prompter) -> Draft:
    """How much each of several mixed teachers counts; nothing is asked where there is one, or each has its own rows."""
    teachers = draft.get("teachers") or []
    if not teachers or any(each.get("rows") for each in teachers):
        return draft

    def weighed(text: str) -> list[dict[str, Any]]:
        numbers = _listed(text)
        if len(numbers) != len(teachers):
            raise RecipeError(f"There are {len(teachers)} teachers: type {len(teachers)} numbers, separated by commas.")
        return [{**each, "weight": number} for each, number in zip(teachers, numbers, strict=True)]

    def wrong(text: str) -> str | None:
        try:
            put(draft, "teachers", weighed(text))
        except RecipeError as error:
            return error.message
        return None

    default = ", ".join(f"{each.get('weight') or 1:g}" for each in teachers)
    typed = prompter.text("teachers.weights", "Weights of the teachers", default=default, check=wrong, more=MORE_WEIGHTS)
    return {**draft, "teachers": [{**each, "weight": float(each["weight"])} for each in weighed(typed)]}


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _needed(text: str) -> str | None:
    return None if text.strip() else "Type something."


def _value_problem(text: str, values: Sequence[str]) -> str | None:
    return "Another teacher has these rows already." if text in values else _needed(text)
