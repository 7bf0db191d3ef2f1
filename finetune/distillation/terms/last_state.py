"""The last hidden state, which the head turns into logits: half the squared distance from the teacher's, as a share of its squared length.

    sum over supervised tokens of  ||h_S - h_T||^2 / (2 ||h_T||^2)

A hidden cache has the teacher's, so this costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.distillation.terms import Term

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.distillation.terms import Batch, View
    from finetune.recipe.distillation_settings import FeaturesSpec


class LastState(Term):
    title = "Last states"
    summary = "distance of the last hidden states; from the hidden cache"

    def weight(self, spec: FeaturesSpec) -> float:
        return spec.last

    def width(self, model: Any) -> int | None:
        from finetune.training.head import head_of

        return head_of(model).weight.shape[1]

    def value(self, student: View, teacher: View, batch: Batch) -> Tensor:
        from finetune.distillation.terms.autograd import relative_distance

        return relative_distance(student.states, teacher.states)
