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
from finetune.training.head import causal_lm

WORDS = {"q": "queries", "k": "keys", "v": "values"}
STACKED = ("c_attn", "qkv_proj")
BY_HEAD = {"gpt_neox": "query_key_value", "bloom": "query_key_value"}


def projection(model: Any, layer: nn.Module, kind: str) -> Watched:
    """What makes the queries, keys or values ("q", "k", "v") of a layer; raises ModelError where that is not known."""
    config = causal_lm(model).config.get_text_config()
    if alone := _named(layer, f"{kind}_proj"):
        return Watched(alone)
    heads, place = config.num_attention_heads, "qkv".index(kind)
    widths = [*projected(config).values()]
    for name in STACKED:
        if (found := _named(layer, name)) and _outputs(found) == sum(widths):
            return Watched(found, partial(_stacked, sum(widths[:place]), widths[place]))
    by_head = _named(layer, BY_HEAD.get(config.model_type, ""))
    if by_head and _outputs(by_head) == 3 * widths[0]:
        return Watched(by_head, partial(_of_each_head, heads, place))
    raise ModelError(
        f"Where a {config.model_type} makes the {WORDS[kind]} of its attention is not known here, so their relations cannot be compared.",
        hint="Leave them out: --set distillation.features.relations=none",
    )


def projected(config: Any) -> dict[str, int]:
    """How many numbers queries, keys and values of a token have, all heads together; `config` is that of the text part."""
    width, heads = head_width(config), config.num_attention_heads
    others = getattr(config, "num_key_value_heads", None) or heads
    return {"q": heads * width, "k": others * width, "v": others * width}


def head_width(config: Any) -> int:
    """The width of an attention head of a model with this text configuration."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // getattr(config, "num_attention_heads", 1))


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
