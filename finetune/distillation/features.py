"""The terms of a run: they watch both models while a batch goes through, and compare what they saw.

    features = Features(spec, student, teacher, made)
    with features.watch_student():
        ...                                     # the student's backbone runs
    with features.watch_teacher(index):
        ...                                     # the teacher's
    loss, sums = features.compared(batch, states, index, teacher_states)

Terms are in terms/, one file each; without any, nothing is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune import registry
from finetune.data.collator import NO_LOSS
from finetune.distillation.cutting import layer_stack
from finetune.distillation.itself import as_teacher
from finetune.distillation.teachers import Teacher
from finetune.distillation.terms import Batch, Term, View, Watched, needs_teacher, weights_of
from finetune.distillation.terms.attention import head_width
from finetune.distillation.terms.inner_layers import layer_pairs
from finetune.distillation.terms.projections import begin, projections
from finetune.distillation_settings import FeaturesSpec
from finetune.errors import RecipeError

Outputs = dict[str, list[Tensor]]


class Features:
    """`made` are the facts of a student made from its teacher, by which its layers are known (students/__init__.py: Made).

    A teacher of which there is a cache alone is None. `maps` are those of terms whose states differ in width (terms/projections.py).
    Raises ModelError for models that cannot be compared so, RecipeError for layers that the student does not have.
    """

    def __init__(self, spec: FeaturesSpec, student: Any, teacher: Any = None, made: Mapping[str, Any] | None = None) -> None:
        self.weights = weights_of(spec)
        self._terms: dict[str, Term] = {name: registry.load("terms", name) for name in self.weights}
        self.maps = nn.ModuleDict()
        self._watched: dict[str, list[Watched]] = {}
        self._teacher_watched: dict[str, list[Watched]] = {}
        self._seen: Outputs = {}
        self._teacher_seen: Outputs = {}
        self._teacher_index: Tensor | None = None
        self._head_widths = [head_width(model) if self._terms and model is not None else 1 for model in (student, teacher)]
        if not self._terms or teacher is None:
            return
        pairs = layer_pairs(spec.layers, len(layer_stack(student)), len(layer_stack(teacher)), made) if spec.layers != "none" else []
        for name, term in self._terms.items():
            self._watched[name] = term.watched(student, [one for one, _ in pairs], spec)
            self._teacher_watched[name] = term.watched(teacher, [other for _, other in pairs], spec)
            self.map(name, student, term.width(teacher))

    def map(self, name: str, student: Any, width: int | None) -> None:
        """Compare the student through maps where its states are not of the teacher's `width`."""
        ours = self._terms[name].width(student)
        if ours is not None and width is not None and ours != width:
            self.maps[name] = projections(max(1, len(self._watched.get(name, []))), ours, width, next(student.parameters()))

    @contextmanager
    def watch_student(self) -> Iterator[None]:
        with watching(self._watched) as self._seen:
            yield

    @contextmanager
    def watch_teacher(self, index: Tensor) -> Iterator[None]:
        """`index` [n] are the places of the supervised tokens in what the teacher reads."""
        self._teacher_index = index
        with watching(self._teacher_watched) as self._teacher_seen:
            yield

    def compared(
        self, real: Tensor, labels: Tensor, states: Tensor, index: Tensor, teacher_states: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the supervised tokens of a batch, with weights and a gradient, and that of each term without weights.

        `real` [rows, length] is 1 where there is no padding; `labels` [rows, length] say how many tokens of each row are supervised.
        """
        batch = batch_of(real, labels)
        total, sums = torch.zeros((), device=states.device), {}
        for name, (student, teacher) in self._views(states, index, teacher_states).items():
            if maps := self._maps_of(name):
                outputs = [each(output) for each, output in zip(maps, student.outputs, strict=False)]
                student = replace(student, states=student.states if outputs else maps[0](student.states), outputs=outputs)
            value = self._terms[name].value(student, teacher, batch)
            total, sums[name] = total + self.weights[name] * value, value.detach()
        return total, sums

    def begin(self, states: Tensor, index: Tensor, teacher_states: Tensor) -> None:
        """Begin the maps with a batch that both models have seen."""
        for name, (student, teacher) in self._views(states, index, teacher_states).items():
            pairs = [
                (ours.flatten(0, 1)[student.index], theirs.flatten(0, 1)[teacher.index])
                for ours, theirs in zip(student.outputs, teacher.outputs, strict=True)
            ]
            for each, (one, other) in zip(self._maps_of(name), pairs or [(states, teacher_states)], strict=False):
                begin(each, one, other)

    def _maps_of(self, name: str) -> list[Any]:
        return [*cast("nn.ModuleList", self.maps[name])] if name in self.maps else []

    def _views(self, states: Tensor, index: Tensor, teacher_states: Tensor) -> dict[str, tuple[View, View]]:
        """What each term sees of the last batch, which is then let go of: the graph of a batch ends with it."""
        teacher_index = index if self._teacher_index is None else self._teacher_index
        theirs = {name: [output.to(states.device) for output in outputs] for name, outputs in self._teacher_seen.items()}
        seen, self._teacher_index = self._seen, None
        self._seen, self._teacher_seen = {}, {}
        return {
            name: (
                View(states, index, seen.get(name, []), self._head_widths[0]),
                View(teacher_states.to(states.device), teacher_index, theirs.get(name, []), self._head_widths[1]),
            )
            for name in self._terms
        }


def features_of(
    spec: FeaturesSpec, student: Any, teachers: Sequence[Teacher], made: Mapping[str, Any] | None, *, prompted: bool
) -> Features:
    """The terms of a training; `prompted` is a teacher that sees other rows than the student.

    Raises RecipeError where there is not the one teacher, or the cache, that they need, and what `Features` raises.
    """
    if not (weights := weights_of(spec)):
        return Features(spec, student)
    if len(teachers) != 1:
        raise RecipeError(
            f"features compare a student with its one teacher, and there are {len(teachers)}.", hint="Give one, or no features."
        )
    (teacher,) = teachers
    if prompted and "relations" in weights:
        raise RecipeError(
            "features.relations compare the same tokens, and the teacher sees a system prompt before them.", hint="Leave them out."
        )
    if teacher.cache is None:
        with as_teacher(teacher.model) as asked:
            return Features(spec, student, asked, made)
    if needs_teacher(spec):
        raise RecipeError(
            "No cache has the inner layers and relations that features compare.", hint="Pass teacher_model=, which then runs at every step."
        )
    if teacher.kept_head is None:
        raise RecipeError("A gradient cache has no hidden states for features.last to compare.", hint="Build one of the kind hidden.")
    features = Features(spec, student)
    features.map("last", student, teacher.kept_head.weight.shape[1])
    return features


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


def batch_of(real: Tensor, labels: Tensor) -> Batch:
    """How much each place of a batch counts."""
    supervised = (labels[:, 1:] != NO_LOSS).sum(1, keepdim=True)
    return Batch(real, real * supervised / real.sum(1, keepdim=True).clamp_min(1))
