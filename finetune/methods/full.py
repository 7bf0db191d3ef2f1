"""Full training: every weight of the model trains, or every weight except the embeddings and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from finetune.methods.base import Footprint, Method, MethodContext
from finetune.recipe.settings import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Full(Method):
    """Trains the model's own weights.

    Of a model that also sees pictures the text part trains: nothing else has a gradient. `freeze: head` freezes the embeddings and the
    output head; `auto` does so for a student made from its teacher, whose head already is the teacher's (and which may then learn from
    the gradient cache), and for one in few bits, whose head is rounded once.
    """

    title = "Full"
    summary = "every weight trains: most memory, a complete model on disk"
    can_be_cut = True
    learning_rate = 5e-5

    class Spec(MethodSpec):
        kind: Literal["full"] = "full"
        freeze: Literal["auto", "none", "head"] = Field("auto", description="Freeze embeddings and output head.")

    def attach(self, model: PreTrainedModel, spec: Spec, context: MethodContext) -> Any:
        from finetune.methods.inventory import tower_names

        # Adam's small updates are lost in 16-bit weights; the arithmetic may still run in 16 bits under autocast.
        model.float().requires_grad_(True)
        for name in tower_names(model):
            model.get_submodule(name).requires_grad_(False)
        if self.keeps_head(spec, head_settled=context.head_settled):
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                if module is not None:
                    module.requires_grad_(False)
        return model

    def trains_tokens(self, spec: Spec) -> bool:
        return spec.freeze != "head"

    def keeps_head(self, spec: Spec, *, head_settled: bool) -> bool:
        return spec.freeze == "head" or (spec.freeze == "auto" and head_settled)

    def footprint(self, spec: Spec) -> Footprint:
        return Footprint(adapter=False, activations=30)
