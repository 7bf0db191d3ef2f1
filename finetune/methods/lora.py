"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: small low-rank matrices beside frozen linear layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from finetune.methods.base import Footprint, Method, MethodContext, TargetModules, attach_adapter
from finetune.recipe.settings import MethodSpec, Usual

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAGNITUDE = "lora_magnitude_vector"
Dropout = Annotated[
    float, Field(ge=0, lt=1, description="Dropout on the adapter's inputs during training.", json_schema_extra=Usual(0, 0.1))
]


class LoRASpec(MethodSpec):
    """The settings of LoRA, also beside a model in 4 bits."""

    r: int = Field(16, ge=1, title="Rank (r)", description="Rank: the size of the small matrices.", json_schema_extra=Usual(8, 64))
    alpha: int = Field(32, ge=1, description="Scale of the adapter's output; usually twice the rank.")
    dropout: Dropout = 0.05
    rslora: bool = Field(False, title="rsLoRA", description="rsLoRA: scale by the square root of the rank, for high ranks.")
    dora: bool = Field(False, title="DoRA", description="DoRA: train weight magnitudes too; better, slower.")
    target_modules: TargetModules = "auto"


class LoRA(Method):
    """Trains rank-`r` updates of the linear layers; the base model does not change.

    `rslora` scales them by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023, arXiv 2312.03732), so that high ranks learn as fast as
    low ones; `dora` also trains the magnitude of each output's weights, separate from their direction (Liu et al. 2024, arXiv 2402.09353).
    """

    title = "LoRA"
    can_be_cut = True
    summary = "a small add-on file; the model stays unchanged: quick, little memory"
    trains_further = "LORA"

    class Spec(LoRASpec):
        kind: Literal["lora"] = "lora"

    def attach(self, model: PreTrainedModel, spec: LoRASpec, context: MethodContext) -> Any:
        """The model wrapped by peft; raises ModelError if `target_modules` match nothing."""
        from peft import LoraConfig

        from finetune.methods.lora_kernel import speed_up
        from finetune.methods.new_tokens import in_32_bits, token_settings

        tokens = token_settings(model, context.new_tokens)
        adapted = attach_adapter(
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
                **tokens,
            ),
            quantised=self.load_in(spec) is not None,
        )
        in_32_bits(adapted)
        speed_up(adapted)
        return adapted

    def trains_tokens(self, spec: LoRASpec) -> bool:
        return True

    def go_on(self, model: Any, spec: LoRASpec, context: MethodContext) -> Any:
        """The adapter that is there, with its ranks and layers, set to train with the recipe's dropout; experts have none."""
        from peft.tuners.lora import LoraLayer
        from torch import nn

        name = model.active_adapter
        model.set_adapter(name)
        config = model.peft_config[name]
        dropout = 0.0 if config.target_parameters else spec.dropout
        config.inference_mode, config.lora_dropout = False, dropout
        for module in model.modules():
            if isinstance(module, LoraLayer) and name in module.lora_dropout:
                module.lora_dropout[name] = nn.Dropout(dropout) if dropout else nn.Identity()
        return model

    def save(self, model: Any, folder: Path) -> None:
        """As peft does, with the names of DoRA's magnitudes as transformers looks for them; peft reads those too."""
        from safetensors.torch import load_file, save_file

        model.save_pretrained(folder)
        file = folder / "adapter_model.safetensors"
        weights = load_file(file)
        if any(name.endswith(MAGNITUDE) for name in weights):
            renamed = {f"{name}.weight" if name.endswith(MAGNITUDE) else name: weight for name, weight in weights.items()}
            save_file(renamed, file, metadata={"format": "pt"})

    def footprint(self, spec: LoRASpec) -> Footprint:
        cost = Footprint(adapter=True, rank=spec.r)
        return replace(cost, activations=100, slowdown=2.4) if spec.dora else cost
