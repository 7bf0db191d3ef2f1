"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: small low-rank matrices beside frozen linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from finetune import recipe
from finetune.methods.base import MethodContext, linear_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback


class LoRA:
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
    def check(spec: Spec, device: str) -> list[str]:
        return []

    @staticmethod
    def load_in(spec: Spec) -> str | None:
        return None

    @staticmethod
    def attach(model: PreTrainedModel, spec: Spec, context: MethodContext) -> Any:
        """The model wrapped by peft; raises ModelError if `target_modules` match nothing."""
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed

        from finetune.errors import ModelError
        from finetune.methods.lora_kernel import speed_up

        set_seed(context.seed)
        targets = linear_targets(model) if spec.target_modules == "auto" else spec.target_modules
        config = LoraConfig(r=spec.r, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=targets, task_type="CAUSAL_LM")
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                f"LoRA cannot attach to {', '.join(targets)} in {type(model).__name__}: {error}.",
                hint=f"The linear layers of this model are {', '.join(linear_targets(model))}.",
            ) from None
        speed_up(adapted)
        return adapted

    @staticmethod
    def callbacks(model: Any, spec: Spec) -> list[TrainerCallback]:
        return []
