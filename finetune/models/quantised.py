"""Models whose files are quantised: in which format, how many weights they have, and what can be done with them.

stored = stored_as(folder)          # Stored("bitsandbytes", 4), or None for floating-point weights
stored.weights("model.layers.0.mlp.up_proj.weight", {"dtype": "U8", "count": 512})         # 1024
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.foreign import reading
from finetune.model_folder import AGAIN, read_json

# What stands beside quantised weights in a file: scales, zeros, tables.
BESIDE = re.compile(r"(absmax|quant_map|quant_state|SCB|weight_format|scale|scales|scale_inv|qzeros|g_idx|zeros?|scale_\w+)(\.\w+)?$")
PACKED = {"U8": 8, "I8": 8, "I32": 32, "U32": 32, "I64": 64}
DEQUANTISE = {
    "bitsandbytes": "Or save it dequantised (model.dequantize() of transformers, then save_pretrained) and name that folder.",
    "mxfp4": "Load it with Mxfp4Config(dequantize=True) of transformers, save it, and name that folder.",
    "fp8": "Load it with FineGrainedFP8Config(dequantize=True) of transformers, save it, and name that folder.",
}


@dataclass(frozen=True)
class Stored:
    """The form of quantised weights: who wrote it ("bitsandbytes", "gptq", "fp8"), and the bits of a weight, None if unknown."""

    form: str
    bits: int | None

    @property
    def title(self) -> str:
        """For sentences: "in 4 bits (bitsandbytes)"."""
        return f"in {self.bits} bits ({self.form})" if self.bits else f"quantised ({self.form})"

    @property
    def is_nf4(self) -> bool:
        """Whether it is what QLoRA trains beside."""
        return self.form == "bitsandbytes" and self.bits == 4

    def weights(self, name: str, entry: Mapping[str, Any]) -> int:
        """How many weights of the model an entry of a safetensors header holds: several in one number, or none in a scale."""
        count = int(entry["count"])
        if BESIDE.search(name):
            return 0
        held = PACKED.get(str(entry.get("dtype")))
        return count * held // self.bits if held and self.bits and self.bits < held else count


def stored_as(folder: Path) -> Stored | None:
    """How the weights of a model folder are quantised, by its config.json; None if they are floating-point numbers.

    BitNet's weights in training form are: its layers round them while they compute.
    """
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    with reading(path, hint=AGAIN):
        inner = config.get("text_config")
        found = config.get("quantization_config") or (inner.get("quantization_config") if isinstance(inner, dict) else None)
        if not isinstance(found, dict):
            return None
        form = str(found.get("quant_method") or "bitsandbytes")
        if form == "bitnet" and found.get("linear_class") == "autobitlinear" and found.get("quantization_mode") == "online":
            return None
        if form.startswith("bitsandbytes"):
            return Stored("bitsandbytes", 4 if found.get("load_in_4bit") or found.get("_load_in_4bit") else 8)
        known = {"mxfp4": 4, "fp8": 8, "fbgemm_fp8": 8}.get(form, found.get("bits"))
        return Stored(form, known if isinstance(known, int) else None)


def training_problem(name: str, stored: Stored | None, *, adapter: bool, load_in: str | None) -> RecipeError | None:
    """Why a model with such files cannot be trained by a method, or None; `load_in` is how the method wants it loaded."""
    if stored is None or (stored.is_nf4 and adapter and load_in == "4bit"):
        return None
    if stored.is_nf4:
        first = "Train an adapter on it: --set method.kind=qlora."
        return RecipeError(
            f"The weights of {name} are stored {stored.title}, which only QLoRA can train.", hint=f"{first} {DEQUANTISE['bitsandbytes']}"
        )
    return RecipeError(
        f"The weights of {name} are stored {stored.title}, so it cannot be trained.",
        hint=f"Name the model that it was made from. {DEQUANTISE.get(stored.form, '')}".strip(),
    )
