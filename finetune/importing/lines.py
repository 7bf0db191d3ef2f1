"""What becomes of one key of another program's configuration, and the rules that say so.

    rule = sets("training.epochs", float)
    list(rule(config, "num_epochs", "3"))        # [Line("num_epochs", MAPPED, keys={"training.epochs": 3.0})]

A source is a table from keys to rules. A rule gets the whole configuration, the key and its value, and yields at least one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.errors import RecipeError

MAPPED = "mapped"  # its value is in the recipe
SAME = "same"  # it needs no key: so it is here, always or by itself
RUNTIME = "runtime"  # an option of the command, since it belongs to a machine and not to a recipe
MISSING = "missing"  # left out
UNKNOWN = "unknown"  # no rule knows the key

OFF = (None, False, 0, "", "none", "no", "off", "false", "disabled")
LONGEST = 60  # characters of a value or a key that are shown


@dataclass(frozen=True)
class Line:
    """One key, or a part of its value such as `datasets[1]`: what became of it, in recipe keys, an option of the command, or words."""

    key: str
    how: str
    said: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    option: str = ""


Config = Mapping[str, Any]
Rule = Callable[[Config, str, Any], Iterable[Line]]


class Refused(RecipeError):
    """The configuration asks for something else than a run of this program."""


def shown(value: Any) -> str:
    """A value of somebody's file, in one short line."""
    text = " ".join(str(value).lower().split() if isinstance(value, bool) else str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_off(value: Any) -> bool:
    """Whether a value switches its key off: false, 0, none, or an empty list."""
    return (value.lower() if isinstance(value, str) else value) in OFF if not isinstance(value, list | dict) else not value


def sets(key: str, convert: Callable[[Any], Any] = lambda value: value, said: str = "") -> Rule:
    """The converted value under `key` of the recipe. Raises RecipeError for a value that cannot be converted."""

    def rule(config: Config, name: str, value: Any) -> Iterator[Line]:
        yield Line(name, MAPPED, said, {key: converted(name, value, convert)})

    return rule


def converted(name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    """`convert(value)`; raises RecipeError naming the key if it cannot be done."""
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        kind = {float: "a number", whole: "a whole number"}.get(convert, "a value that can be read")
        raise RecipeError(f"{shown(name)} must be {kind}, not {shown(value)!r}.", hint="Correct it, or leave it out.") from None


def whole(value: Any) -> int:
    """An int, as YAML or a text may write it; raises ValueError for anything else."""
    number = float(value)
    if isinstance(value, bool) or number != int(number):
        raise ValueError(value)
    return int(number)


def same(why: str) -> Rule:
    """Whatever it is: nothing to do."""

    def rule(config: Config, name: str, value: Any) -> Iterator[Line]:
        yield Line(name, SAME, why)

    return rule


def missing(instead: str) -> Rule:
    """Not supported, with what to do instead; where it is off nothing is missing."""

    def rule(config: Config, name: str, value: Any) -> Iterator[Line]:
        yield Line(name, SAME, "off there, and not done here") if is_off(value) else Line(name, MISSING, instead)

    return rule


def fixed(here: float, instead: str) -> Rule:
    """A number that is always `here` in this program."""

    def rule(config: Config, name: str, value: Any) -> Iterator[Line]:
        number = converted(name, value, float)
        yield Line(name, SAME, f"{here:g} here too") if number == here else Line(name, MISSING, f"{instead}: {here:g} here")

    return rule


def switch(on: Rule, off: Rule) -> Rule:
    """One rule for a value that is on, another for one that is off."""

    def rule(config: Config, name: str, value: Any) -> Iterable[Line]:
        return (off if is_off(value) else on)(config, name, value)

    return rule


def option(flag: str, said: str = "", off: str = "off there, and off here unless asked for") -> Rule:
    """An option of `finetune-cli run`, where the value is on; `off` says what is so where it is not."""

    def rule(config: Config, name: str, value: Any) -> Iterator[Line]:
        yield Line(name, RUNTIME, said, option=flag)

    return switch(rule, same(off))


def dtype(name: str) -> Rule:
    """The precision, which is the machine's to choose unless one is asked for."""
    return option(f"--dtype {name}", off="the precision is chosen for the machine, unless --dtype asks for one")


def refuses(message: str, hint: str) -> Rule:
    """Raises Refused where the value is on; {} is replaced by it."""

    def rule(config: Config, name: str, value: Any) -> Iterator[Line]:
        raise Refused(message.format(f"`{shown(name)}: {shown(value)}`"), hint=hint)

    return switch(rule, same("off there, and not done here"))


def table(same_here: Mapping[str, str], missing_here: Mapping[str, str]) -> dict[str, Rule]:
    """Rules from {why it needs no key: keys with spaces between them}, and from {what to do instead: keys}."""
    found = {key: same(why) for why, keys in same_here.items() for key in keys.split()}
    return found | {key: missing(instead) for instead, keys in missing_here.items() for key in keys.split()}


def each(names: str, rule: Rule) -> dict[str, Rule]:
    """The same rule for several keys, written with spaces between them."""
    return dict.fromkeys(names.split(), rule)
