"""Feature losses, added to the divergence: how far the student's internal states are from the teacher's, one file for each.

    term = registry.load("terms", "last")
    term.weight(spec)                                   # what the recipe gives it; 0 leaves it out
    term.value(student, teacher, batch)                 # summed over the supervised tokens, with a gradient

The name in the registry is a key under `distillation.features`. A run's terms together: finetune/distillation/terms/features.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune import registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.recipe.distillation_settings import FeaturesSpec

Pairs = Sequence[tuple[int, int]]  # a layer of the student and one of the teacher, counted from 0


@dataclass(frozen=True)
class Watched:
    """A module whose output [rows, length, width] is compared, or what `take` takes of it."""

    module: nn.Module
    take: Callable[[Tensor], Tensor] = lambda output: output


@dataclass(frozen=True)
class View:
    """What one of the two models shows of a batch.

    `states` [n, d] are the last ones at the supervised tokens, `index` [n] the places of these tokens among all of the batch, and `outputs`
    [rows, length, width] those of the modules that the term watches; `head_width` is that of the model's attention heads.
    """

    states: Tensor
    index: Tensor
    outputs: Sequence[Tensor]
    head_width: int


@dataclass(frozen=True)
class Batch:
    """Which places [rows, length] are `real` and no padding, and the `shares` of these in the loss.

    A row counts as much as it has supervised tokens, and its places share that equally: so no sum over a batch depends on the other rows.
    """

    real: Tensor
    shares: Tensor


class Term:
    """What every term has. `every_place`: what it watches is compared at all places of a row, not at the supervised tokens alone.

    `value` is zero for identical models, and raises nothing: what cannot be compared, `watched` refuses with a ModelError before a run.
    """

    title: ClassVar[str]
    summary: ClassVar[str]
    every_place: ClassVar[bool] = False

    def weight(self, spec: FeaturesSpec) -> float:
        raise NotImplementedError

    def watched(self, model: Any, layers: Sequence[int], spec: FeaturesSpec) -> list[Watched]:
        """The modules of one model whose outputs `value` compares; `layers` are those that the recipe pairs with the other's."""
        return []

    def kept(self, layers: Sequence[int], spec: FeaturesSpec) -> list[str]:
        """The names of the tensors that a cache keeps of a teacher, in the order of `watched`; none for what every cache has."""
        return []

    def kept_width(self, config: Any, name: str) -> int:
        """The numbers in one of them, of a teacher with this text configuration."""
        raise NotImplementedError

    def width(self, model: Any) -> int | None:
        """How wide the compared states of a model are: from one width to another leads a map. None: the term itself copes with any."""
        return None

    def value(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """A scalar, summed over the supervised tokens; its gradient reaches the student alone."""
        raise NotImplementedError


def weights_of(spec: FeaturesSpec) -> dict[str, float]:
    """The terms that the recipe asks for, with their weights."""
    weights = {name: float(registry.load("terms", name).weight(spec)) for name in registry.names("terms")}
    return {name: weight for name, weight in weights.items() if weight}


def in_words(spec: FeaturesSpec) -> str:
    """The terms that the recipe asks for: "last states (weight 0.1), relations of tokens: v (weight 1)"; empty without any."""
    parts = []
    for name, weight in weights_of(spec).items():
        which = getattr(spec, name)
        of = f": {', '.join(map(str, which))}" if isinstance(which, list) else ""
        title: str = registry.title("terms", name)
        parts.append(f"{title[0].lower()}{title[1:]}{of} (weight {weight:g})")
    return ", ".join(parts)
