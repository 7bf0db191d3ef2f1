"""Why a value does not fit its setting, in words of our own: what the validator says is written for programmers.

    reason_of({"type": "int_parsing", "msg": "Input should be a valid integer, unable to parse ..."})     # "must be a whole number"

Every kind of problem that the settings can meet has its words here; one that a plugin's own types bring has the plain "is not valid".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a number",
    "decimal": "must be a number",
    "bool": "must be true or false",
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
UNKNOWN = "is not valid"
REPOSITORY = "must be NAME or USER/NAME, of letters, digits, '-', '_' and '.'"


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
