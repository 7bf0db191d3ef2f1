"""A student of a given size: the mix of fewer and narrower layers that is closest to the teacher on calibration rows.

A few students of that size are made and measured, from all layers with a narrow feed-forward part to few layers as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.distillation.students import Build, Made, Rows, planned_student
from finetune.errors import ModelError, RecipeError
from finetune.formatting import percent

if TYPE_CHECKING:
    from torch import nn

    from finetune.distillation.students.layers import Block

MEASURED = 5  # students, at most; each takes a few seconds
OFF = 0.02  # of the parameters: how far a student may be from the size that was asked for, if half a layer is not more


class Size:
    title = "Best mix"
    summary = "fewer and narrower layers, whichever mix of them measures closest"
    passes = 2 + 2 * MEASURED  # the teacher's twice, and of each student one that narrows it and its own

    def planned(self, config: Any, amount: float, build: Build) -> Any:
        """The configuration of the mix in the middle: which one it will be is measured when the student is made."""
        return planned_student(config, _middle(_mixes(config, amount, build)).amounts(), build)

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made:
        from finetune.distillation.students.closeness import Closeness
        from finetune.distillation.students.layers import blocks_to_leave_out

        found = _of_model(teacher, amount)
        blocks = blocks_to_leave_out(teacher, [mix.layers for mix in found if mix.layers], rows)
        closeness = Closeness(teacher, rows)
        best, least, distances = Made(teacher, ""), float("inf"), {}
        for mix in found:
            made = _made(teacher, mix, rows, blocks)
            distance = closeness.of(made.model)
            distances[str(mix)] = distance
            if distance < least:
                best, least = made, distance
        listed = ", ".join(f"{distances[mix]:.2f} ({mix})" for mix in sorted(distances, key=lambda mix: distances[mix]))
        why = f"Of {len(found)} students of this size it is the closest to the teacher. KL to the teacher: {listed}."
        return Made(best.model, f"{best.said} {why}", best.facts, least)


@dataclass(frozen=True)
class Mix:
    """So many layers, and so many channels in the feed-forward part of each; None: as in the teacher."""

    layers: int | None
    ffn: int | None

    def amounts(self) -> list[tuple[str, int]]:
        return [(name, amount) for name, amount in (("layers", self.layers), ("ffn", self.ffn)) if amount is not None]

    def __str__(self) -> str:
        layers = f"{self.layers} layers" if self.layers else "all layers"
        return f"{layers} with {self.ffn:,} channels" if self.ffn else layers


def likely_mix(teacher: nn.Module, size: float) -> Mix:
    """The mix that a plan counts with, before any is measured."""
    return _middle(_of_model(teacher, size))


def _of_model(teacher: nn.Module, size: float) -> list[Mix]:
    from finetune.training.head import causal_lm

    model = causal_lm(teacher)
    return _mixes(model.config, size, type(model)._from_config)


def _middle(found: list[Mix]) -> Mix:
    return found[len(found) // 2]


def _mixes(config: Any, size: float, build: Build) -> list[Mix]:
    """Mixes whose students have about `size` of the model's parameters, most layers first.

    Raises RecipeError if there are none of that size, ModelError if layers can be left out nowhere and none can be narrower.
    """
    from finetune.distillation.students.ffn import STEP, ffn_width

    depth, parameters, layer = _counted(config, build)
    spare = (1 - size) * parameters
    fewest = depth - round(spare / layer)
    counts = {round(fewest + (depth - fewest) * at / (MEASURED - 1)) for at in range(MEASURED)}
    refused: list[ModelError] = []
    width, channel = 0, 1.0
    try:
        width = ffn_width(config)
        _, narrow, _ = _counted(planned_student(config, Mix(None, STEP).amounts(), build), build)
        channel = (parameters - narrow) / depth / (width - STEP)  # parameters of one channel of one layer
    except ModelError as error:
        refused.append(error)
    except RecipeError:
        width = 0  # it has no more than STEP channels
    found = []
    for layers in sorted(filter(lambda count: count > 1, counts), reverse=True):
        left = spare - (depth - layers) * layer
        ffn = width - max(0, round(left / (layers * channel) / STEP)) * STEP if width else 0
        off = abs(left - layers * channel * (width - ffn)) / parameters
        mix = Mix(layers if layers < depth else None, ffn if ffn < width else None)
        if off > max(OFF, layer / parameters / 2) or (width and ffn < STEP) or not mix.amounts():
            continue
        try:
            planned_student(config, mix.amounts(), build)
            found.append(mix)
        except ModelError as error:
            refused.append(error)
    if not found:
        steps = [layer] * (depth > 2) + [depth * STEP * channel] * (width >= 2 * STEP)
        raise next(iter(refused), None) or _no_such_size(size, 1 - min(steps, default=parameters) / parameters)
    return found


def _no_such_size(size: float, largest: float) -> RecipeError:
    """The error for a student that would have to be smaller than embeddings are, or larger than the `largest` share that can be made."""
    most = math.floor(100 * largest) / 100
    why, hint = "embeddings stay", "Choose a share between it and 1, or name what to keep: --set model.from_teacher.layers=0.67"
    if size > most > 0:
        why, hint = f"the largest has {percent(largest)}", f"Choose a smaller share, such as --set model.from_teacher.size={most:g}"
    return RecipeError(f"model.from_teacher.size: no student has {size:g} of the teacher's parameters: {why}.", hint=hint)


def _counted(config: Any, build: Build) -> tuple[int, int, float]:
    """Layers, parameters, and the parameters of one layer on average."""
    import torch

    from finetune.distillation.students.cutting import layer_stack

    with torch.device("meta"):
        model = build(copy.deepcopy(config))
    stack = layer_stack(model)
    inside = sum(parameter.numel() for parameter in stack.parameters())
    return len(stack), sum(parameter.numel() for parameter in model.parameters()), inside / len(stack)


def _made(teacher: nn.Module, mix: Mix, rows: Rows, blocks: Mapping[int, Block]) -> Made:
    from finetune.distillation.students.layers import without

    shallow = without(teacher, blocks[mix.layers]) if mix.layers else Made(teacher, "")
    if mix.ffn is None:
        return shallow
    made: Made = registry.load("students", "ffn").make(shallow.model, mix.ffn, rows)
    return Made(made.model, f"{shallow.said} {made.said}".strip(), {**shallow.facts, **made.facts})
