"""A student of a given size: the mix of fewer and narrower layers that is closest to the teacher on calibration rows.

Few students of that size are made and measured, from all layers and a narrow feed-forward part to few layers as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.distillation.students import READY_MADE, Build, Made, Rows
from finetune.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from torch import nn

MEASURED = 5  # students; each takes a few seconds


@dataclass(frozen=True)
class Mix:
    """So many layers, and so many channels in the feed-forward part of each; None: as in the teacher."""

    layers: int | None
    ffn: int | None

    def amounts(self) -> list[tuple[str, int]]:
        return [(name, amount) for name, amount in (("layers", self.layers), ("ffn", self.ffn)) if amount is not None]


class Size:
    title = "Best mix"
    summary = "fewer and narrower layers, as a few measured students show to be closest"

    def planned(self, config: Any, amount: float, build: Build) -> Any:
        """The configuration of the mix in the middle: which one it will be is measured when the student is made."""
        found = mixes(config, amount, build)
        return _planned(config, found[len(found) // 2], build)

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made:
        from finetune.distillation.students.closeness import Closeness
        from finetune.training.head import causal_lm

        model = causal_lm(teacher)
        found = mixes(model.config, amount, type(model)._from_config)
        closeness = Closeness(teacher, rows)
        tried = []
        best: Made | None = None
        for mix in found:
            made = _make(teacher, mix, rows)
            tried.append({**{name: kept for name, kept in mix.amounts()}, "kl": closeness.of(made.model)})
            if tried[-1]["kl"] == min(each["kl"] for each in tried):
                best = made
        assert best is not None
        listed = ", ".join(f"{_words(mix)} {each['kl']:.2f}" for mix, each in zip(found, tried, strict=True))
        why = f" Of {len(found)} students of this size it is the closest to the teacher before training (KL: {listed})." if len(found) > 1 else ""
        return Made(best.model, f"{best.said}{why}", {**best.facts, "tried": tried})


def mixes(config: Any, size: float, build: Build) -> list[Mix]:
    """Mixes whose students have about `size` of the model's parameters, most layers first; raises RecipeError or ModelError if there are none."""
    from finetune.distillation.cutting import possible_starts
    from finetune.distillation.students.ffn import STEP, ffn_width

    anatomy = _Anatomy.of(config, build)
    spare = (1 - size) * anatomy.parameters
    depth = anatomy.depth
    fewest = depth - int(spare / anatomy.layer + 0.5)
    if fewest < 2:
        least = 1 - (depth - 2) * anatomy.layer / anatomy.parameters
        raise RecipeError(
            f"model.from_teacher.size: {size:g} of the teacher's parameters would leave less than 2 of its {depth} layers.",
            hint=f"The rest is mostly embeddings, which stay: --set model.from_teacher.size={max(0.75, round(least + 0.05, 2)):g}",
        )
    counts = sorted({round(fewest + (depth - fewest) * at / (MEASURED - 1)) for at in range(MEASURED)}, reverse=True)
    found, reasons = [], []
    for layers in counts:
        try:
            if layers < depth:
                possible_starts(config, depth - layers, build, first=True)
            left = spare - (depth - layers) * anatomy.layer
            width = ffn_width(config) if layers > fewest else None
            ffn = None
            if width is not None:
                ffn = width - round(left / (layers * anatomy.channel(config, build)) / STEP) * STEP
                if ffn < STEP:
                    continue
                ffn = ffn if ffn < width else None
        except ModelError as error:
            reasons.append(error)
            continue
        if ffn is not None or layers < depth:
            found.append(Mix(layers if layers < depth else None, ffn))
    if not found:
        if reasons:
            raise reasons[-1]
        raise RecipeError(
            f"model.from_teacher.size: {size:g} of the teacher's parameters is too near to all of them.", hint=f"For example 0.75. {READY_MADE}"
        )
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Anatomy:
    """A model's layers, all its parameters, and those of one layer on average."""

    depth: int
    parameters: int
    layer: float

    @classmethod
    def of(cls, config: Any, build: Build) -> _Anatomy:
        import copy

        import torch

        from finetune.distillation.cutting import layer_stack

        with torch.device("meta"):
            model = build(copy.deepcopy(config))
        stack = layer_stack(model)
        inside = sum(parameter.numel() for parameter in stack.parameters())
        return cls(len(stack), sum(parameter.numel() for parameter in model.parameters()), inside / len(stack))

    def channel(self, config: Any, build: Build) -> float:
        """Parameters of one channel of one layer's feed-forward part."""
        from finetune.distillation.students.ffn import STEP

        less = _planned(config, Mix(None, STEP), build)
        from finetune.distillation.students.ffn import ffn_width

        saved = self.parameters - _Anatomy.of(less, build).parameters
        return saved / self.depth / (ffn_width(config) - STEP)


def _planned(config: Any, mix: Mix, build: Build) -> Any:
    from finetune import registry

    for name, amount in mix.amounts():
        config = registry.load("students", name).planned(config, amount, build)
    return config


def _make(teacher: nn.Module, mix: Mix, rows: Rows) -> Made:
    from finetune import registry

    made = Made(teacher, "")
    for name, amount in mix.amounts():
        more = registry.load("students", name).make(made.model, amount, rows)
        made = Made(more.model, f"{made.said} {more.said}".strip(), {**made.facts, **more.facts})
    return made


def _words(mix: Mix) -> str:
    layers = f"{mix.layers} layers" if mix.layers else "all layers"
    return f"{layers} of {mix.ffn:,} channels" if mix.ffn else layers
