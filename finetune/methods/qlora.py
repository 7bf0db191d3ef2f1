"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA beside a base model whose linear layers are stored in 4 bits.

The 4-bit weights are NF4 with doubly quantised scales; each layer is dequantised to the machine's dtype while it computes. Embeddings,
norms and the output head stay in that dtype: the losses here read the head in full precision themselves, so nothing is cast to 32 bits.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Literal

from finetune.methods.base import NF4_BITS, Footprint
from finetune.methods.lora import LoRA, LoRASpec

MISSING = "QLoRA needs the package bitsandbytes, which is not installed: pip install bitsandbytes, or use LoRA."


class QLoRA(LoRA):
    """Trains what LoRA trains, on a 4-bit base; the adapter belongs to that rounded base."""

    title = "QLoRA"
    can_be_cut = False  # four-bit weights are no numbers that could be shared out
    summary = "LoRA on a model rounded to 4 bits: least memory, slower"

    class Spec(LoRASpec):
        kind: Literal["qlora"] = "qlora"

    def check(self, spec: LoRASpec, device: str) -> list[str]:
        return [] if find_spec("bitsandbytes") else [MISSING]

    def load_in(self, spec: LoRASpec) -> str | None:
        return "4bit"

    def notes(self, spec: LoRASpec, device: str) -> list[str]:
        slower = "On a CPU, QLoRA saves memory and costs time: every step has to dequantise the 4-bit weights."
        return [slower] if device == "cpu" else []

    def footprint(self, spec: LoRASpec) -> Footprint:
        return replace(super().footprint(spec), bits=NF4_BITS, slowdown=2.6 if spec.dora else 1.1)
