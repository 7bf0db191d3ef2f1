"""JSON as it stands in files and in cells: numbers keep their spelling, because most of them become text.

DECODER.decode('{"price": 1.50}')  ->  {"price": Number("1.50")}
plain({"a": Number("1")})          ->  {"a": 1}, for what is no text: the arguments of a tool, token ids
"""

from __future__ import annotations

import json
from typing import Any


class Number(str):
    """A number as the file spells it (1.50 stays 1.50)."""

    __slots__ = ()


DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, strict=False)  # a bare tab or NUL in a string stays one


def parsed(value: Any) -> Any:
    """The JSON value in a cell of text, which is all that CSV can hold; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return DECODER.decode(value.strip())
    except (ValueError, RecursionError):
        return value


def plain(value: Any) -> Any:
    """The same value with numbers that can be counted with, however nested."""
    if isinstance(value, Number):
        return number(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def number(spelled: str) -> int | float | str:
    """What a spelled number is; the text itself if it is none, or has more digits than Python reads."""
    for kind in (int, float):
        try:
            return kind(spelled)
        except ValueError:
            continue
    return spelled


def without_nulls(value: Any) -> Any:
    """Nested values without their empty fields: a table gives every object all the fields that any of them has."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
