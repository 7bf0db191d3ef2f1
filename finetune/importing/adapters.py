"""Which method a configuration means, and keys that only mean something beside an adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from finetune.importing.lines import MAPPED, MISSING, SAME, Config, Line, Refused, Rule, is_off, shown
from finetune.registry import names

ALL = ("all", "all-linear", "all_linear")


def kind_of(adapter: Any, *, in_4_bits: bool) -> str:
    """The name of the method: full where nothing is named. Raises Refused for an adapter that there is not."""
    if is_off(adapter):
        return "full"
    name = "qlora" if adapter == "lora" and in_4_bits else str(adapter)
    if name not in names("methods"):
        raise Refused(
            f"There is no method {shown(adapter)} here.", hint=f"Choose another in that file; methods here: {', '.join(names('methods'))}."
        )
    return name


def of_adapter(kind: Callable[[Config], str], rule: Rule, *, only: Sequence[str] = ("lora", "qlora", "adalora")) -> Rule:
    """A rule for a key that belongs to adapters of some kinds; beside others the key does nothing."""

    def chosen(config: Config, name: str, value: Any) -> Iterable[Line]:
        found = kind(config)
        if found in only:
            return rule(config, name, value)
        if found == "full":
            return [Line(name, SAME, "it belongs to an adapter, and every weight trains")]
        return [Line(name, MISSING, f"{found} has no such setting")]

    return chosen


def target_modules(config: Config, name: str, value: Any) -> Iterator[Line]:
    """Names of layers, as a list or with commas; a pattern cannot be kept."""
    if isinstance(value, str) and value.strip().lower() in ALL:
        yield Line(name, MAPPED, "every linear layer", {"method.target_modules": "auto"})
        return
    wanted = value if isinstance(value, list) else str(value).split(",")
    wanted = [str(layer).strip() for layer in wanted if str(layer).strip()]
    if any(set(layer) & set("*()[]|^$\\+?") for layer in wanted):
        yield Line(
            name, MISSING, "layers are named, not matched by a pattern; all linear layers are adapted (--set method.target_modules=auto)"
        )
    else:
        yield Line(name, MAPPED, keys={"method.target_modules": wanted})
