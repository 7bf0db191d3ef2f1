"""What a chat template may make in one step: while Python makes it, no other thread can stop the template.

limit_sandbox()                                        # once
with at_most(TEMPLATE_CHARACTERS):
    tokenizer.apply_chat_template(turns)               # raises TooMuch

A step is a product, a call, a filter, a chain of ~, or putting together what was written. A list can contain one long text many times, so
values are weighed by what they would be as text. Inside, it is always the same day.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache, wraps
from itertools import permutations
from typing import Any

from finetune.foreign import TEMPLATE_CHARACTERS, TEMPLATE_NUMBER

# Some templates write today's date into every prompt. Training, benchmark and chat must see the same one, on whatever day they happen.
TODAY = datetime(2026, 1, 1, 12)
NO_LIMIT = sys.maxsize
TOO_LONG, TOO_LARGE = "makes a text that is too long", "makes a number that is too large"
ITEM = 10  # characters that every value counts for, besides its own
LARGE_WIDTH = re.compile(r"\d{8}")  # in a format such as %012d
NESTED = re.compile(r"\*|\{[^{}]*\{")  # formats that take a width from their values
SLOW = ("urlize", "striptags", "wordwrap", "xmlattr")  # filters that go over a text again and again
SHORT = 10_000  # characters for those

_ALLOWED: ContextVar[int] = ContextVar("allowed", default=NO_LIMIT)


class TooMuch(Exception):
    """A template that was stopped."""


@contextmanager
def at_most(characters: int) -> Iterator[None]:
    """Inside, no step of a template makes more than these."""
    before = _ALLOWED.set(characters)
    try:
        yield
    finally:
        _ALLOWED.reset(before)


@cache
def limit_sandbox() -> None:
    """Have Jinja's sandbox check each step before it is made."""
    from jinja2 import runtime
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    call, from_string, markup_join = Sandbox.call, Sandbox.from_string, runtime.markup_join

    def call_binop(self: Any, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return self.binop_table[operator](left, right)

    def limited_call(self: Any, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(called, "__wrapped__", called)
        name = getattr(inner, "__name__", "")
        args = tuple(map(_listed, args)) if name == "join" else args
        _check_call(name, (getattr(inner, "__self__", None), *args), kwargs)
        if name == "strftime_now" and _ALLOWED.get() != NO_LIMIT:
            return TODAY.strftime(*args, **kwargs)
        return call(self, context, called, *args, **kwargs)

    def limited_from_string(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.filters = {name: _limited(name, function) for name, function in self.filters.items()}
        self.finalize = _weighed
        return from_string(self, *args, **kwargs)

    def limited_join(seq: Iterable[Any]) -> str:
        return _concat(str(_weighed(part)) for part in seq)

    def limited_markup_join(seq: Iterable[Any]) -> str:
        return markup_join(_weighed(list(seq)))

    Sandbox.intercepted_binops = frozenset({"+", "*", "**", "%"})
    Sandbox.call_binop = call_binop  # type: ignore[method-assign]
    Sandbox.call = limited_call  # type: ignore[method-assign]
    Sandbox.from_string = limited_from_string  # type: ignore[method-assign]
    Sandbox.concat = staticmethod(_concat)
    runtime.str_join = limited_join
    runtime.markup_join = limited_markup_join


def weigh(values: Iterable[Any]) -> int:
    """About the characters of some values as text; raises TooMuch for more than are allowed."""
    most, weight, left = _ALLOWED.get(), 0, list(values)
    while left:
        value = left.pop()
        weight += ITEM
        if isinstance(value, str):
            weight += len(value)
        elif isinstance(value, Mapping | list | tuple):
            if len(value) * ITEM > most:
                raise TooMuch(TOO_LONG)
            left += value.values() if isinstance(value, Mapping) else value
        if weight > most:
            raise TooMuch(TOO_LONG)
    return weight


def _weighed(value: Any) -> Any:
    """A value that is about to become text."""
    if isinstance(value, Mapping | list | tuple):
        weigh([value])
    return value


def _concat(parts: Iterable[str]) -> str:
    texts, length, most = [], 0, _ALLOWED.get()
    for text in parts:
        texts.append(text)
        length += len(text)
        if length > most:
            raise TooMuch("writes too much")
    return "".join(texts)


def _listed(value: Any) -> Any:
    """What can be gone over only once, as a list that can be weighed first."""
    return list(value) if isinstance(value, Iterator) else value


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja itself hands in

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(_listed, args)) if name == "join" else args
        _check_call(name, args[first:], kwargs)
        return function(*args, **kwargs)

    return limited


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Raises TooMuch for a product, a power or a format that is too large to make."""
    if operator == "%" and isinstance(left, str):
        _check_call("format", (left, *(right if isinstance(right, tuple) else (right,))), {})
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if operator in ("*", "**") and bits > TEMPLATE_NUMBER:
            raise TooMuch(TOO_LARGE)
    elif operator == "+":
        if isinstance(left, list | tuple) and isinstance(right, list | tuple):  # a text of twice its length is seen when it is written
            _check_length((len(left) + len(right)) * ITEM)
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if hasattr(value, "__len__") and isinstance(times, int):
                _check_length(len(value) * times * (1 if isinstance(value, str) else ITEM))


def _check_call(name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raises TooMuch for a call that would make too long a text: `given[0]` is what the method or filter belongs to."""
    values = [*given, *named.values()]
    numbers = [abs(value) for value in values[1:] if isinstance(value, int)]
    if any(number > TEMPLATE_CHARACTERS for number in numbers):
        raise TooMuch(TOO_LONG)
    weigh(values)
    text, others = (given or (None,))[0], values[1:]
    texts = [value for value in others if isinstance(value, str)]
    if name == "strftime_now" and any(len(each) > SHORT or LARGE_WIDTH.search(each) for each in texts):
        raise TooMuch(TOO_LONG)
    if name == "join" and hasattr(text, "__len__"):  # the parts, or what is put between them
        _check_length(len(text) * max((len(value) for value in others if hasattr(value, "__len__")), default=0))
    elif isinstance(text, str) and name in MADE:
        _check_length(MADE[name](text, others, numbers))
    elif isinstance(text, str) and name in SLOW and len(text) > SHORT:
        raise TooMuch(TOO_LONG)


def _check_length(made: int) -> None:
    if made > _ALLOWED.get():
        raise TooMuch(TOO_LONG)


def _texts(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _formatted(text: str, values: list[Any], numbers: list[int]) -> int:
    if LARGE_WIDTH.search(text):
        raise TooMuch(TOO_LONG)
    largest = max((weigh([value]) for value in values), default=0)
    if NESTED.search(text):
        largest = max(largest, *numbers, 0)
    return sum(map(int, re.findall(r"\d+", text))) + (text.count("%") + text.count("{")) * largest


def _replaced(text: str, values: list[Any], numbers: list[int]) -> int:
    return max((text.count(old) * len(new) for old, new in permutations(_texts(values), 2)), default=0)


def _translated(text: str, values: list[Any], numbers: list[int]) -> int:
    tables = [value for value in values if isinstance(value, Mapping)]
    return len(text) * max((len(new) for table in tables for new in _texts(table.values())), default=1)


# What these methods and filters of a text make, in characters, beyond what they are given.
MADE: dict[str, Callable[[str, list[Any], list[int]], int]] = {
    "format": _formatted,
    "format_map": _formatted,
    "replace": _replaced,
    "translate": _translated,
    "expandtabs": lambda text, values, numbers: text.count("\t") * max(numbers, default=8),
    "indent": lambda text, values, numbers: text.count("\n") * max([*numbers, *map(len, _texts(values))], default=4),
}
