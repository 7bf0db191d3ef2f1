"""The outputs of inner layers: the distance of last_state.py, averaged over pairs of a student's layer and a teacher's.

    layer_pairs("auto", 20, 30, {"layers": 20, "of_layers": 30, "left_out": [11, 20]})      # [(10, 20), (11, 21), ...]

Of a student made from its teacher it is known which layer is which. What comes before the first layer that was left out is the teacher's
own at the start, so `auto` begins after it, or takes the last layer where none is left there. Of a ready-made student the layers are
spread evenly over the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.distillation.terms import Pairs, Term, Watched
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.distillation.terms import Batch, View
    from finetune.recipe.distillation_settings import FeaturesSpec


class InnerLayers(Term):
    title = "Inner layers"
    summary = "distance of the outputs of layers; from a cache that keeps them too"

    def weight(self, spec: FeaturesSpec) -> float:
        return 0.0 if spec.layers == "none" else spec.layers_weight

    def watched(self, model: Any, layers: Sequence[int], spec: FeaturesSpec) -> list[Watched]:
        from finetune.distillation.students.cutting import layer_stack

        stack = layer_stack(model)
        return [Watched(stack[layer]) for layer in layers]

    def kept(self, layers: Sequence[int], spec: FeaturesSpec) -> list[str]:
        return [f"layer.{layer}" for layer in layers]

    def kept_width(self, config: Any, name: str) -> int:
        return int(config.hidden_size)

    def width(self, model: Any) -> int | None:
        from finetune.training.head import causal_lm

        return int(causal_lm(model).config.get_text_config().hidden_size)

    def value(self, student: View, teacher: View, batch: Batch) -> Tensor:
        import torch

        from finetune.distillation.terms.autograd import relative_distance

        parts = [
            relative_distance(ours.flatten(0, 1).index_select(0, student.index), theirs.flatten(0, 1).index_select(0, teacher.index))
            for ours, theirs in zip(student.outputs, teacher.outputs, strict=True)
        ]
        return torch.stack(parts).mean()


def layer_pairs(wanted: str | Sequence[int], depth: int, of_depth: int, made: Mapping[str, Any] | None = None) -> Pairs:
    """Which layers of a student and of its teacher are compared, counted from 0; `wanted` counts those of the student from 1.

    `made` are the facts of a student that was made from the teacher (students/__init__.py: Made). Raises RecipeError for layers that the
    student does not have, and for facts of another student.
    """
    if wanted == "none":
        return []
    of = teacher_layers(depth, of_depth, made)
    if wanted == "auto":
        only_layers = made is not None and "left_out" in made and not {"ffn", "heads"} & made.keys()
        changed = [layer for layer in range(depth) if of[layer] != layer or not only_layers] or [depth - 1]
    else:
        changed = [int(number) - 1 for number in wanted]
        if beyond := [layer + 1 for layer in changed if layer >= depth]:
            raise RecipeError(
                f"distillation.features.layers names layer {beyond[0]}, and the student has {depth}.",
                hint="--set distillation.features.layers=auto",
            )
    return [(layer, of[layer]) for layer in changed]


def teacher_layers(depth: int, of_depth: int, made: Mapping[str, Any] | None) -> list[int]:
    """The teacher's layer of each layer of a student."""
    if made is None or "left_out" not in made:
        return [round((layer + 1) * of_depth / depth) - 1 for layer in range(depth)]
    ranges = made["left_out"] if made["left_out"] and isinstance(made["left_out"][0], list) else [made["left_out"]]
    kept = [layer for layer in range(of_depth) if not any(first <= layer + 1 <= last for first, last in ranges)]
    if len(kept) != depth or made["of_layers"] != of_depth:
        raise RecipeError(
            f"A student of {depth} of {of_depth} layers is described as one of {len(kept)} of {made['of_layers']}.",
            hint="Pass the facts of this student.",
        )
    return kept
