"""What is wrong with a recipe, in one sentence with the key that it is about and what to do: pydantic's own words are for programmers.

explained(error, known_fields())       # RecipeError("training.epochs must be greater than 0, not -1.")

Every kind of problem that the settings can meet has its words here; one that a plugin's own types bring has the plain "is not valid".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe.key_names import meant, possible
from finetune.recipe.settings import Spec, fields_of, usual
from finetune.recipe.teacher_settings import OneTeacherSpec
from finetune.system.shell import quoted

WORDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a number",
    "decimal": "must be a number",
    "bool": "must be true or false",
    "string_unicode": "has letters that the encoding of this terminal does not have",
    "string": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "list": "must be a list",
    "tuple": "must be a list",
    "set": "must be a list",
    "too_short": "must have at least {min_length} item{s}",
    "too_long": "must have at most {max_length} items",
    "dict": "must be a mapping of keys",
    "mapping": "must be a mapping of keys",
    "model": "must be a mapping of keys",
    "dataclass": "must be a mapping of keys",
    "none_required": "must be left out",
    "missing": "is missing",
}
UNKNOWN, NO_LETTERS = "is not valid", "string_unicode"  # the second is pydantic's word for bytes that are no letters
REPOSITORY = "must be NAME or USER/NAME, of letters, digits, '-', '_' and '.'"


def explained(error: ValidationError, fields: Iterable[tuple[str, FieldInfo]]) -> RecipeError:
    """The first problem as one sentence with its dotted key."""
    known = dict(fields)
    problems = error.errors()
    problem = problems[0]
    if isinstance(problem["input"], Mapping):  # it is no plain text, which was tried first: what is wrong inside says more
        inside = (other for other in problems if other["loc"][:1] == problem["loc"][:1] and len(other["loc"]) > len(problem["loc"]))
        problem = next(inside, problem)
    path = _path(problem)
    if problem["type"] == "extra_forbidden":
        plain = ".".join(part for part in path.split(".") if not part.isdigit())
        of_one = fields_of(OneTeacherSpec, "teachers.") if plain != path else ()  # in a list, such as teachers.0.weight
        keys = sorted({*known, *(key for key, _ in of_one)})
        if path in keys:
            owners = [name for name in registry.names("methods") if path.removeprefix("method.") in _keys_of_method(name)]
            return RecipeError(f"{path} is not a key of the chosen method.", hint=f"It belongs to: {', '.join(owners)}.")
        return RecipeError(f"{path} is not a recipe key.{meant(plain, keys)}", hint=possible(plain, keys))
    reasons = [reason_of(other) for other in error.errors() if _path(other) == path]  # one for each type that the key may have
    told = [each for each in reasons if each != UNKNOWN] or reasons
    reason = " or ".join(dict.fromkeys(told)).replace(" or must be ", " or ").replace(" or must ", " or ")
    shown = problem["input"]
    if isinstance(shown, bool):
        shown = str(shown).lower()
        value = f", not {shown}"
    else:
        value = f", not {shown!r}" if isinstance(shown, str | int | float) and problem["type"] != NO_LETTERS else ""
    said = f"{path or 'The recipe'} {reason}{value}".rstrip(".")
    if isinstance(shown, str) and shown and "a list" in reason:
        return RecipeError(f"{said}.", hint=f"Put a list in brackets: --set {quoted(f'{path}=[{shown}]')}")
    return RecipeError(f"{said}.", hint=_hint(path, known.get(path)))


def _keys_of_method(name: str) -> list[str]:
    return list(registry.load("methods", name).Spec.model_fields)


def _path(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"] if not _is_branch(str(part)))


def _hint(path: str, field: FieldInfo | None) -> str | None:
    if field is None or field.is_required() or path.startswith("method"):
        return None
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, Spec):
        return None
    shown = f"[{','.join(default)}]" if isinstance(default, list) else default
    found = usual(field)
    return f"{f'Usually {found}; the' if found else 'The'} default is {shown}: --set {quoted(f'{path}={shown}')}"


def _is_branch(part: str) -> bool:
    """pydantic names the branch of a union in the path of an error; people never wrote it."""
    branches = {"str", "int", "constrained-int", "float", "constrained-float", "bool", "list[str]", "StudentSpec"}
    return part in branches or part.startswith(("literal[", "function-"))


def reason_of(problem: Mapping[str, Any]) -> str:
    """What a value must be, after pydantic's `problem`: its type, its context, its message."""
    kind, context = str(problem["type"]), dict(problem.get("ctx") or {})
    if kind in ("value_error", "assertion_error"):  # written by us, or by the author of a plugin
        return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "string_pattern_mismatch":
        return REPOSITORY if "/" in str(context.get("pattern")) else "is not written as it must be"
    words = WORDS.get(kind) or WORDS.get(kind.partition("_")[0], UNKNOWN)
    numbers = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
    try:
        return words.format(s="" if context.get("min_length") == 1 else "s", **numbers)
    except (KeyError, IndexError):
        return UNKNOWN
