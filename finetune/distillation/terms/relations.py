"""How tokens relate to each other in attention (MiniLMv2, Wang et al. 2021, arXiv 2012.15828), compared in the last layer of both models.

    R = causal softmax(X X^T / sqrt r),  X [length, r] of one head;   sum over kinds of the mean over heads of KL(R_T || R_S)

X are the outputs of the projections to queries, keys or values, taken as they are, so it does not matter how attention is computed. They
are split into as many heads as the teacher has, or as many as divide both widths: the models may differ in width and in heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.distillation.terms import Term

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.distillation.terms import Batch, View, Watched
    from finetune.recipe.distillation_settings import FeaturesSpec


class Relations(Term):
    title = "Relations of tokens"
    summary = "queries, keys or values of attention (MiniLMv2); from a cache that keeps them too"
    every_place = True

    def weight(self, spec: FeaturesSpec) -> float:
        return spec.relations_weight if spec.relations else 0.0

    def watched(self, model: Any, layers: Sequence[int], spec: FeaturesSpec) -> list[Watched]:
        from finetune.distillation.students.cutting import layer_stack
        from finetune.distillation.terms.attention import projection

        return [projection(model, layer_stack(model)[-1], kind) for kind in spec.relations]

    def kept(self, layers: Sequence[int], spec: FeaturesSpec) -> list[str]:
        return [f"last_layer.{kind}" for kind in spec.relations]

    def kept_width(self, config: Any, name: str) -> int:
        from finetune.distillation.terms.attention import projected

        return projected(config)[name[-1]]

    def value(self, student: View, teacher: View, batch: Batch) -> Tensor:
        import torch

        from finetune.distillation.terms.autograd import relation_divergence

        parts = []
        for ours, theirs in zip(student.outputs, teacher.outputs, strict=True):
            heads = relation_heads(ours.shape[-1], theirs.shape[-1], theirs.shape[-1] // teacher.head_width)
            parts.append(relation_divergence(ours, theirs, heads, batch))
        return torch.stack(parts).sum()


def relation_heads(ours: int, theirs: int, most: int) -> int:
    """Into how many heads two widths are cut: at most so many, each as wide as the others."""
    return next(heads for heads in range(max(1, most), 0, -1) if ours % heads == 0 and theirs % heads == 0)
