"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: small low-rank matrices beside frozen linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from finetune import recipe
from finetune.methods.base import Method, MethodContext, attach_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoRA(Method):
    """Trains rank-`r` updates of the linear layers; the base model stays as it is."""

    title = "LoRA"
    summary = "small matrices beside the frozen model: little memory, an adapter of a few MB"

    class Spec(recipe.Spec):
        kind: Literal["lora"] = "lora"
        r: int = Field(16, ge=1)
        alpha: int = Field(32, ge=1)
        dropout: float = Field(0.05, ge=0, lt=1)
        target_modules: Literal["auto"] | list[str] = "auto"

    @staticmethod
    def attach(model: PreTrainedModel, spec: Spec, context: MethodContext) -> Any:
        """The model wrapped by peft; raises ModelError if `target_modules` match nothing."""
        from finetune.methods.lora_kernel import speed_up

        adapted = attach_lora(model, spec, context)
        speed_up(adapted)
        return adapted


def attach_lora(model: PreTrainedModel, spec: Any, context: MethodContext) -> Any:
    """LoRA by peft beside the linear layers of a model, quantised ones too; raises ModelError if `target_modules` match nothing."""
    from peft import LoraConfig

    return attach_adapter(
        model,
        spec.target_modules,
        context,
        lambda targets: LoraConfig(
            r=spec.r, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=targets, task_type="CAUSAL_LM"
        ),
    )
