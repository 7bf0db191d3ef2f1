"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: small low-rank matrices beside frozen linear layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune.recipe import Spec


class LoRA:
    """Trains rank-`r` updates of the linear layers; the base model stays as it is."""

    title = "LoRA"
    summary = "small matrices beside the frozen model: little memory, an adapter of a few MB"

    class Spec(Spec):
        kind: Literal["lora"] = "lora"
        r: int = Field(16, ge=1)
        alpha: int = Field(32, ge=1)
        dropout: float = Field(0.05, ge=0, lt=1)
        target_modules: Literal["auto"] | list[str] = "auto"
