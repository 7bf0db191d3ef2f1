"""The feature losses of a training: hooks capture states of both models during a batch, and the terms compare them.

    features = Features(spec, student, teacher, made)
    with features.watch_student(real):
        ...                                     # the student's backbone runs
    with features.watch_teacher(index):
        ...                                     # the teacher's; of a cache: features.read(cache, rows, counts, lengths)
    loss, sums = features.compared(labels, states, index, teacher_states)

Each term is a file beside this one; without any there are no hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.data.tokens.labels import NO_LOSS
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.caches.read_ahead import CacheRead, ReadAhead
from finetune.distillation.students.cutting import layer_stack
from finetune.distillation.teachers.itself import as_teacher
from finetune.distillation.teachers.model_or_cache import Teacher
from finetune.distillation.terms import Batch, View, Watched, weights_of
from finetune.distillation.terms.attention import last_head_width
from finetune.distillation.terms.internals import Outputs, pairs_of, terms_of, text_config, watching
from finetune.distillation.terms.projections import begin, projections
from finetune.errors import RecipeError
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.training.batches import sent


class Features:
    """`made` are the facts of a student made from its teacher, by which its layers are known (students/__init__.py: Made).

    The teacher is a model, or a `cache` that one has written, or both. `maps` are those of terms whose states differ in width
    (terms/projections.py). Raises ModelError for models that cannot be compared so, RecipeError for layers that the student does not have
    and for what is not in the cache.
    """

    def __init__(
        self,
        spec: FeaturesSpec,
        student: Any,
        teacher: Any = None,
        made: Mapping[str, Any] | None = None,
        cache: TeacherCache | None = None,
    ) -> None:
        self.weights, self._terms = weights_of(spec), terms_of(spec)
        self.maps = nn.ModuleDict()
        self._watched: dict[str, list[Watched]] = {}
        self._teacher_watched: dict[str, list[Watched]] = {}
        self._seen: Outputs = {}
        self._teacher_seen: Outputs = {}
        self._real = torch.empty(0)
        self._teacher_index: Tensor | None = None
        self.kept: dict[str, list[str]] = {}  # the tensors of a cache
        self._head_widths = [1, 1]
        if not self._terms:
            return
        inside = cache.key.inside if cache is not None else {}
        if teacher is not None:
            depth = len(layer_stack(teacher)) if spec.layers != "none" else 0
            theirs = last_head_width(text_config(teacher))
        else:
            depth, theirs = inside.get("depth", 0), inside.get("head_width", 1)
        self._head_widths = [last_head_width(text_config(student)), theirs]
        pairs = pairs_of(spec, student, depth, made) if depth else []
        layers = [other for _, other in pairs]
        if cache is not None:
            self.kept = {name: term.kept(layers, spec) for name, term in self._terms.items()}
            _check_kept(spec, self.kept, cache)
        for name, term in self._terms.items():
            self._watched[name] = term.watched(student, [one for one, _ in pairs], spec)
            if teacher is not None:
                self._teacher_watched[name] = term.watched(teacher, layers, spec)
            self._map(name, student, term.width(teacher) if cache is None else _width(cache, self.kept[name]))

    def _map(self, name: str, student: Any, width: int | None) -> None:
        """Compare the student through maps where its states are not of the teacher's `width`."""
        ours = self._terms[name].width(student)
        if ours is not None and width is not None and ours != width:
            self.maps[name] = projections(max(1, len(self._watched.get(name, []))), ours, width, next(student.parameters()))

    @contextmanager
    def watch_student(self, real: Tensor) -> Iterator[None]:
        """`real` [rows, length] is 1 where the batch that the student reads has no padding."""
        self._real = real
        with watching(self._watched) as self._seen:
            yield

    @contextmanager
    def watch_teacher(self, index: Tensor) -> Iterator[None]:
        """`index` [n] are the places of the supervised tokens in what the teacher reads."""
        self._teacher_index = index
        with watching(self._teacher_watched) as self._teacher_seen:
            yield

    def read(self, source: TeacherCache | ReadAhead, rows: Sequence[int], counts: Sequence[int], lengths: Sequence[int]) -> None:
        """Take what the teacher would show of the student's batch from a cache; of each row its number, supervised tokens and length."""
        real = self._real
        places = real.bool()[..., None]
        self._teacher_index = torch.arange(sum(counts), device=real.device)
        for name, names in self.kept.items():
            found = source.read(rows, lengths if self._terms[name].every_place else counts, names) if names else []
            outputs = [sent(each, real.device) for each in found]
            if self._terms[name].every_place:
                self._teacher_seen[name] = [each.new_zeros(*real.shape, each.shape[1]).masked_scatter(places, each) for each in outputs]
            else:
                self._teacher_seen[name] = [each[None] for each in outputs]

    def ahead(self, rows: Sequence[int], counts: Sequence[int], lengths: Sequence[int]) -> list[CacheRead]:
        """What `read` will ask of a cache."""
        return [(rows, lengths if self._terms[name].every_place else counts, names) for name, names in self.kept.items() if names]

    def compared(self, labels: Tensor, states: Tensor, index: Tensor, teacher_states: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the supervised tokens of a batch, with weights and a gradient, and that of each term without weights.

        `labels` [rows, length] say how many tokens of each row are supervised.
        """
        batch = batch_of(self._real, labels)
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
    if teacher.cache is not None and teacher.kept_head is None and "last" in weights:
        raise RecipeError("A gradient cache has no hidden states for features.last to compare.", hint="Build one of the kind hidden.")
    with as_teacher(teacher.model) as asked:
        return Features(spec, student, asked, made, teacher.cache)


def _check_kept(wanted: FeaturesSpec, kept: Mapping[str, Sequence[str]], cache: TeacherCache) -> None:
    """Raises RecipeError unless a cache has what is compared of the teacher's inside."""
    inside = cache.key.inside
    there = {*inside.get("tokens", ()), *inside.get("places", ())}
    asked = [name for names in kept.values() for name in names]
    if (wanted.layers != "none" and not inside) or not there.issuperset(asked):
        raise RecipeError(
            "This cache lacks inner layers or relations that features compare.",
            hint="Build one with compared=, or pass teacher_model= alone, which then runs at every step.",
        )


def _width(cache: TeacherCache, names: Sequence[str]) -> int | None:
    """How wide the states are that a cache keeps of a term."""
    if names:
        width: int | None = cache.key.inside["tokens"].get(names[0])
        return width
    return cache.head.weight.shape[1] if cache.head is not None else None


def batch_of(real: Tensor, labels: Tensor) -> Batch:
    """How much each place of a batch counts."""
    supervised = (labels[:, 1:] != NO_LOSS).sum(1, keepdim=True)
    return Batch(real, real * supervised / real.sum(1, keepdim=True).clamp_min(1))
