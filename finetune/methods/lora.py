"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: small low-rank matrices beside frozen linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from finetune.methods.base import (
    Footprint,
    Method,
    MethodContext,
    attach_adapter,
)
from finetune.settings import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAGNITUDE = "lora_magnitude_vector"


class LoRA(Method):
    """Trains rank-`r` updates of the linear layers; the base model stays as it is.

    `rslora` scales them by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023, arXiv 2312.03732), so that high ranks learn as fast as
    low ones; `dora` also trains the length of every output's weights apart from their direction (Liu et al. 2024, arXiv 2402.09353).
    """

    title = "LoRA"
    summary = "small matrices beside the frozen model: little memory, an adapter of a few MB"

    class Spec(MethodSpec):
        kind: Literal["lora"] = "lora"
        r: int = Field(16, ge=1)
        alpha: int = Field(32, ge=1)
        dropout: float = Field(0.05, ge=0, lt=1)
        rslora: bool = False
        dora: bool = False
        target_modules: Literal["auto"] | list[str] = "auto"

    @staticmethod
    def attach(model: PreTrainedModel, spec: Spec, context: MethodContext) -> Any:
        """The model wrapped by peft; raises ModelError if `target_modules` match nothing."""
        from finetune.methods.lora_kernel import speed_up

        adapted = attach_lora(model, spec, context)
        speed_up(adapted)
        return adapted

    @staticmethod
    def save(model: Any, folder: Path) -> None:
        """As peft does, with the names of DoRA's magnitudes as transformers looks for them; peft reads those too."""
        from safetensors.torch import load_file, save_file

        model.save_pretrained(folder)
        file = folder / "adapter_model.safetensors"
        weights = load_file(file)
        if any(name.endswith(MAGNITUDE) for name in weights):
            renamed = {f"{name}.weight" if name.endswith(MAGNITUDE) else name: weight for name, weight in weights.items()}
            save_file(renamed, file, metadata={"format": "pt"})

    @staticmethod
    def footprint(spec: Spec) -> Footprint:
        return Footprint(rank=spec.r, activations=100, slowdown=2.4) if spec.dora else Footprint(rank=spec.r)


def attach_lora(model: PreTrainedModel, spec: Any, context: MethodContext) -> Any:
    """LoRA by peft beside the linear layers of a model, quantised ones too; raises ModelError if `target_modules` match nothing."""
    from peft import LoraConfig

    return attach_adapter(
        model,
        spec.target_modules,
        context,
        lambda targets: LoraConfig(
            r=spec.r,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            use_rslora=spec.rslora,
            use_dora=spec.dora,
            target_modules=targets,
            task_type="CAUSAL_LM",
        ),
    )
