"""Find the projections for queries, keys and values in a layer: three modules, or one that packs all of them.

    watched = projection(model, layer, "v")
    watched.take(output)                 # the values [rows, length, heads * width] in the output of watched.module

Two ways of packing them into one projection are known: one after another (GPT-2, Phi-3), or head by head (GPT-NeoX, BLOOM).
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune.distillation.terms import Watched
from finetune.errors import ModelError
from finetune.models.layer_configs import head_width, layer_configs
from finetune.training.head import causal_lm

LEAVE_OUT = "Leave them out: --set distillation.features.relations=none"
WORDS = {"q": "queries", "k": "keys", "v": "values"}
STACKED = {"gpt2": "c_attn", "gpt_bigcode": "c_attn", "openai-gpt": "c_attn", "phi3": "qkv_proj", "phi4_multimodal": "qkv_proj"}
BY_HEAD = {"gpt_neox": "query_key_value", "bloom": "query_key_value", "gpt_bigcode": "c_attn"}  # the last where heads share nothing


def projection(model: Any, layer: nn.Module, kind: str) -> Watched:
    """What makes the queries, keys or values ("q", "k", "v") of a layer; raises ModelError where that is not known."""
    config = causal_lm(model).config.get_text_config()
    if alone := _named(layer, f"{kind}_proj"):
        return Watched(alone)
    widths, place = [*projected(config).values()], "qkv".index(kind)
    by_head = _named(layer, BY_HEAD.get(config.model_type, ""))
    if by_head and _outputs(by_head) == 3 * widths[0]:
        return Watched(by_head, partial(_of_each_head, config.num_attention_heads, place))
    stacked = _named(layer, STACKED.get(config.model_type, ""))
    if stacked and _outputs(stacked) == sum(widths):
        return Watched(stacked, partial(_stacked, sum(widths[:place]), widths[place]))
    raise ModelError(
        f"Where a {config.model_type} makes the {WORDS[kind]} of its attention is not known here, so their relations cannot be compared.",
        hint=LEAVE_OUT,
    )


def projected(config: Any) -> dict[str, int]:
    """How many numbers queries, keys and values of a token have in the last layer, all heads together; `config` is that of the text part.

    Raises ModelError for a model without attention heads.
    """
    layer = layer_configs(config)[-1]
    width, heads = last_head_width(config), getattr(layer, "num_attention_heads", None)
    if heads is None:
        raise ModelError(f"A {config.model_type} has no attention heads, so their relations cannot be compared.", hint=LEAVE_OUT)
    others = getattr(layer, "num_key_value_heads", None) or heads
    return {"q": heads * width, "k": others * width, "v": others * width}


def last_head_width(config: Any) -> int:
    """The width of an attention head in the last layer of a model with this text configuration."""
    return head_width(layer_configs(config)[-1])


def _named(layer: nn.Module, wanted: str) -> nn.Module | None:
    """The one module of a layer with this name, or None."""
    found = [module for name, module in layer.named_modules() if name.rpartition(".")[2] == wanted]
    return found[0] if len(found) == 1 and wanted else None


def _outputs(module: Any) -> int:
    base = getattr(module, "base_layer", module)  # of an adapted one
    return int(getattr(base, "nf", 0) if isinstance(base, Conv1D) else getattr(base, "out_features", 0))


def _stacked(start: int, width: int, output: Tensor) -> Tensor:
    return output[..., start : start + width]


def _of_each_head(heads: int, place: int, output: Tensor) -> Tensor:
    return cast(Tensor, output.unflatten(-1, (heads, 3, -1))[..., place, :].flatten(-2))
