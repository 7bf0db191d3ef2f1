"""The internal states of a teacher that terms compare: captured by forward hooks, and which of them a cache keeps.

    compared = compared_of(spec, student, teacher, made)        # which of the teacher's layers; None where nothing inside is compared
    compared.kept(teacher)                                      # the names of the tensors of a cache, and the numbers in each
    with watching(compared.watched(teacher)) as seen:
        ...                                                     # the teacher reads
    seen["layers"]                                              # outputs [rows, length, width]

A cache keeps 16 bits of a number: those that the teacher computes in, or for one in 32 bits float16, where its numbers are within reach of
that, else bfloat16. Of 64 bits all are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune import registry
from finetune.distillation.students.cutting import layer_stack
from finetune.distillation.terms import Term, Watched, weights_of
from finetune.distillation.terms.attention import last_head_width
from finetune.distillation.terms.inner_layers import layer_pairs
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.training.head import causal_lm

Outputs = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Kept:
    """Of a teacher of `depth` layers: tensors of a cache and the numbers in each, of every supervised token or of every place of a row."""

    depth: int
    head_width: int
    tokens: dict[str, int]
    places: dict[str, int]

    def bytes(self, tokens: int, places: int, dtype: torch.dtype) -> int:
        """On disk, for rows of so many supervised tokens and places, of a teacher that computes in `dtype`."""
        return (8 if dtype == torch.float64 else 2) * (tokens * sum(self.tokens.values()) + places * sum(self.places.values()))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for the key of a cache."""
        return asdict(self)


@dataclass(frozen=True)
class Compared:
    """What the terms of `spec` compare of a teacher, whose `layers` are counted from 0."""

    spec: FeaturesSpec
    layers: Sequence[int]

    def kept(self, config: Any, depth: int) -> Kept:
        """What a cache keeps of a teacher of `depth` layers with this text configuration."""
        kept = Kept(depth, last_head_width(config), {}, {})
        for term in terms_of(self.spec).values():
            of = kept.places if term.every_place else kept.tokens
            of |= {name: term.kept_width(config, name) for name in term.kept(self.layers, self.spec)}
        return kept

    def watched(self, teacher: Any) -> dict[str, list[Watched]]:
        """The modules of a teacher, by the names of the terms; raises ModelError where they are not known."""
        return {name: term.watched(teacher, self.layers, self.spec) for name, term in terms_of(self.spec).items()}

    def names(self) -> list[str]:
        """The tensors of a cache, in the order of what is watched."""
        return [name for term in terms_of(self.spec).values() for name in term.kept(self.layers, self.spec)]


def terms_of(spec: FeaturesSpec) -> dict[str, Term]:
    return {name: registry.load("terms", name) for name in weights_of(spec)}


def compared_of(spec: FeaturesSpec, student: Any, teacher: Any, made: Mapping[str, Any] | None) -> Compared | None:
    """For two models; `made` are the facts of a student made from this teacher. None where nothing inside is compared.

    Raises RecipeError for layers that the student does not have.
    """
    if not any(name in weights_of(spec) for name in ("layers", "relations")):
        return None
    return Compared(spec, [theirs for _, theirs in pairs_of(spec, student, len(layer_stack(teacher)), made)])


def pairs_of(spec: FeaturesSpec, student: Any, depth: int, made: Mapping[str, Any] | None) -> Sequence[tuple[int, int]]:
    """Layers of a student and of its teacher of `depth` layers that are compared."""
    return [] if spec.layers == "none" else layer_pairs(spec.layers, len(layer_stack(student)), depth, made)


def facts_of(teacher: Any) -> tuple[Any, int]:
    """The text configuration of a model, and its layers."""
    return text_config(teacher), len(layer_stack(teacher))


def text_config(model: Any) -> Any:
    return causal_lm(model).config.get_text_config()


@contextmanager
def watching(watched: Mapping[str, Sequence[Watched]]) -> Iterator[Outputs]:
    """What is watched of the forward pass that happens inside, in its order."""
    seen: Outputs = {name: [torch.empty(0)] * len(listed) for name, listed in watched.items()}

    def keep(name: str, place: int, take: Callable[[Tensor], Tensor], _: nn.Module, args: Any, output: Any) -> None:
        seen[name][place] = take(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for name, listed in watched.items():
            for place, each in enumerate(listed):
                hooks.enter_context(each.module.register_forward_hook(partial(keep, name, place, each.take)))
        yield seen


def narrow(states: Tensor) -> Tensor:
    """Numbers of 32 bits in 16, others as they are."""
    if states.dtype != torch.float32:
        return states
    half = states.half()
    return half if half.isfinite().all() else states.bfloat16()
