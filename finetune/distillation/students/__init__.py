"""How a student is made from its teacher: one file for each way, all in the registry kind `students`.

    maker = registry.load("students", "ffn")
    maker.planned(config, 0.75, build)             # the configuration of such a student, for a plan: no weights, no rows
    maker.make(teacher, 0.75, rows).model          # the student itself

The name in the registry is the key under `model.from_teacher`. Several keys are applied one after another, in the order of the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from finetune import registry

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[Any], Any]  # from a configuration to a model
Rows = Iterable[Mapping[str, Any]]  # with `input_ids`
VERSION = 1  # part of the key of a made student's scores: raise it when a recipe would make another student
CALIBRATION_TOKENS = 1024  # of the rows, which the makers of students look at
READY_MADE = "Choose a ready-made student: --set model=MODEL"


@dataclass(frozen=True)
class Made:
    """A student, one sentence that says what was left out and why, and the same as `facts`: {"layers": 20, "of_layers": 30, ...}.

    `kl` is how far it is from its teacher on the rows, where that was measured (closeness.py).
    """

    model: Any
    said: str
    facts: dict[str, Any] = field(default_factory=dict)
    kl: float | None = None


def wanted_of(amount: float, of: int) -> float:
    """What a count, or a share below 1, means of so many."""
    return of * amount if amount < 1 else amount


def planned_student(config: Any, amounts: Iterable[tuple[str, float]], build: Build) -> Any:
    """The configuration of a student made in several ways, without weights and rows; raises what they raise."""
    for name, amount in amounts:
        config = registry.load("students", name).planned(config, amount, build)
    return config


def passes_of(amounts: Iterable[tuple[str, float]]) -> int:
    """How often models are run over the calibration rows, at most, to make a student in several ways."""
    return sum(registry.load("students", name).passes for name, _ in amounts)


class StudentMaker(Protocol):
    """A way to make a model smaller. `amount` is what the recipe says under its key: mostly a count, or a share below 1.

    `passes` says how often, at most, it runs a model over the calibration rows.

    Both raise RecipeError for an amount that cannot be, and ModelError for an architecture of which no such student can be made: a saved
    student must be what its own configuration describes. `make` leaves the teacher as it was, and shares no weight with it.
    """

    title: str
    summary: str
    passes: int

    def planned(self, config: Any, amount: float, build: Build) -> Any: ...

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made: ...
