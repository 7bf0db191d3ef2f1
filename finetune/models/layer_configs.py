"""Configurations whose layers differ, as Gemma 4's do: transformers refuses to read there what is not the same in all of them.

layer_configs(text)[-1].head_dim        # 512, where that of the first is 256
differs(text, "head_dim")               # True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def layer_configs(text: Any) -> list[Any]:
    """The configuration of each layer of a model with this text configuration, which is that of all where they do not differ."""
    return list(text.per_layer_config) if _differing(text) else [text] * getattr(text, "num_hidden_layers", 1)  # not all state it


def head_width(layer: Any) -> int:
    """The width of an attention head in a layer of this configuration."""
    return int(getattr(layer, "head_dim", None) or layer.hidden_size // getattr(layer, "num_attention_heads", 1))


def differs(text: Any, *names: str) -> bool:
    """Whether one of these is not the same in all layers."""
    return not _differing(text).isdisjoint(names)


def of_kept_layers(text: Any, kept: Sequence[int]) -> dict[int, dict[str, Any]] | None:
    """What differs in the layers that a student keeps, by their new numbers; None where nothing does."""
    if not _differing(text):
        return None
    stated = {int(number): changes for number, changes in text.to_dict()["per_layer_config"].items()}
    return {place: stated[number] for place, number in enumerate(kept) if number in stated}


def _differing(text: Any) -> set[str]:
    return set(getattr(text, "per_layer_attributes", None) or ())
