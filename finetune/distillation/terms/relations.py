"""How tokens relate to each other in attention (MiniLMv2, Wang et al. 2021, arXiv 2012.15828), compared in the last layer of both models.

    R = causal softmax(X X^T / sqrt r),  X [length, r] of one head;   sum over kinds of the mean over heads of KL(R_T || R_S)

X are the outputs of the projections to queries, keys or values, taken as they are, so it does not matter how attention is computed. They
are cut anew into as many heads as the teacher has, or as many as divide both widths: the models may differ in width and in heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from finetune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.distillation.terms import Batch, View
    from finetune.settings import FeaturesSpec

WORDS = {"q": "queries", "k": "keys", "v": "values"}


class Relations:
    title = "Relations of tokens"
    summary = "queries, keys or values of attention (MiniLMv2); the teacher runs at every step"
    online = True

    def weight(self, spec: FeaturesSpec) -> float:
        return spec.relations_weight if spec.relations else 0.0

    def watched(self, model: Any, layers: Sequence[int], spec: FeaturesSpec) -> list[nn.Module]:
        from finetune.distillation.cutting import layer_stack

        return [projection(model, layer_stack(model)[-1], kind) for kind in spec.relations]

    def width(self, model: Any) -> int | None:
        return None

    def value(self, student: View, teacher: View, batch: Batch) -> Tensor:
        import torch

        from finetune.distillation.terms.by_hand import relation_divergence

        parts = []
        for ours, theirs in zip(student.outputs, teacher.outputs, strict=True):
            heads = relation_heads(ours.shape[-1], theirs.shape[-1], theirs.shape[-1] // teacher.head_width)
            parts.append(relation_divergence(ours, theirs, heads, batch))
        return torch.stack(parts).sum()


def relation_heads(ours: int, theirs: int, most: int) -> int:
    """Into how many heads two widths are cut: at most so many, each as wide as the others."""
    return next(heads for heads in range(max(1, most), 0, -1) if ours % heads == 0 and theirs % heads == 0)


def projection(model: Any, layer: nn.Module, kind: str) -> nn.Module:
    """The module that makes a layer's queries, keys or values; raises ModelError where none makes these alone."""
    from finetune.training.head import causal_lm

    found = [module for name, module in layer.named_modules() if name.rpartition(".")[2] == f"{kind}_proj"]
    if len(found) != 1:
        raise ModelError(
            f"The attention of a {causal_lm(model).config.model_type} has no projection that makes its {WORDS[kind]} alone, "
            "so their relations cannot be compared.",
            hint="Leave them out: --set distillation.features.relations=none",
        )
    return cast("nn.Module", found[0])
