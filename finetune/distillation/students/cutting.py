"""Which layers a student can keep so that its own configuration describes it: what is saved is built from the configuration alone.

    first_cut(config, 20, build)                          # the configuration of a student of 20 layers, for a plan
    possible_starts(config, 10, build)                    # [1, 2, ...]: where a block of 10 layers can be left out

Layers are compared without weights, on torch's meta device: their classes, the shapes of their parameters, and the plain numbers in them.
Some architectures compute a constant from a layer's number (DiffLlama), others choose a layer's kind by a rule (Jamba). Lists and counts in
a configuration are rewritten for the layers that stay; where that is not enough, there is no such student.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from finetune.distillation.students import READY_MADE, Build
from finetune.errors import ModelError, RecipeError
from finetune.models.layer_configs import of_kept_layers
from finetune.training.head import backbone_of, causal_lm

PLACE = re.compile(r"(layer|block)_(idx|id|index|num|number)|idx")  # what modules call the number of their layer
NUMBERS = re.compile(r"layers?|(idxs?|ids|indices|indexes)$")  # names of lists that hold numbers of layers
NOT_NUMBERS = re.compile(r"token|vocab|special")


def kept_layers(layers: int | float, depth: int) -> int:
    """How many of `depth` layers a count or a share means."""
    count = round(depth * layers) if layers < 1 else int(layers)
    if not 2 <= count < depth:
        raise RecipeError(
            f"model.from_teacher.layers: {layers} means {count} of the teacher's {depth} layers.",
            hint=f"Between 2 and {depth - 1} can be kept: --set model.from_teacher.layers={max(2, round(depth * 0.67))}",
        )
    return count


def kept_without(start: int, length: int, depth: int) -> list[int]:
    """The numbers of the layers that stay when a block is left out."""
    return [*range(start), *range(start + length, depth)]


def layer_stack(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers of a causal model."""
    inner = causal_lm(model)
    text = inner.config.get_text_config()
    depth = text.num_hidden_layers
    decoder = backbone_of(model) if text is inner.config else inner.get_decoder()
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists:
        raise ModelError(f"Cannot find the decoder layers of {type(inner).__name__}.", hint=READY_MADE)
    return lists[0]


def first_cut(config: Any, layers: int, build: Build) -> Any:
    """The configuration of a student that keeps so many layers; raises ModelError if no block of that length can be left out."""
    depth = config.get_text_config().num_hidden_layers
    start = possible_starts(config, depth - layers, build, first=True)[0]
    return cut_config(config, kept_without(start, depth - layers, depth))


def possible_starts(config: Any, length: int, build: Build, *, first: bool = False) -> list[int]:
    """Where a block of `length` layers can be left out, not counting the first and the last; with `first` only the first such place.

    Raises ModelError if there is none.
    """
    depth = config.get_text_config().num_hidden_layers
    with torch.device("meta"):
        whole, beside = _signatures(build(copy.deepcopy(config)))
        found: list[int] = []
        why = ""
        for start in range(1, depth - length):
            kept = kept_without(start, length, depth)
            if found and len(set(whole)) == 1:  # all layers are of one kind, so one place is as good as another
                found.append(start)
                continue
            layers, rest = _signatures(build(cut_config(config, kept)))
            wanted = [whole[number] for number in kept]
            if layers == wanted and rest == beside:
                found.append(start)
                if first:
                    break
            else:
                why = why or _difference(layers, wanted)
    if not found:
        raise ModelError(
            f"A student cannot be cut out of a {config.model_type} here: {why}, so what is saved would not be what was trained.",
            hint=f"{READY_MADE}, or keep another number of layers, which may fit.",
        )
    return found


def cut_config(config: Any, kept: Sequence[int]) -> Any:
    """A copy of a configuration for a model that keeps these layers."""
    config = copy.deepcopy(config)
    cut_in_place(config, kept)
    return config


def cut_in_place(config: Any, kept: Sequence[int]) -> None:
    """Rewrite a configuration for the layers that stay: lists with an entry for each layer, numbers of layers, and counts."""
    text = config.get_text_config()
    depth, differing = text.num_hidden_layers, of_kept_layers(text, kept)
    _keep_rules(text, kept, depth)
    for name, value in list(vars(text).items()):
        if name.startswith("_") or name == "architectures" or NOT_NUMBERS.search(name):
            continue
        if isinstance(value, list | tuple) and (changed := _cut_list(name, value, kept, depth)) is not None:
            setattr(text, name, changed)
        elif isinstance(value, str) and "pattern" in name and len(value) == depth:  # one letter for each layer
            setattr(text, name, "".join(value[number] for number in kept))
    text.num_hidden_layers = len(kept)
    if differing is not None:
        text.per_layer_config = differing
    if hasattr(text, "attention_types"):  # of GPT-Neo, whose config says the same twice
        text.attention_types = [[[kind], 1] for kind in text.attention_layers]


def _cut_list(name: str, value: Sequence[Any], kept: Sequence[int], depth: int) -> list[Any] | None:
    """A list of a configuration for the layers that stay; None if it is not about layers."""
    numbers = all(type(each) is int and 0 <= each < depth for each in value) and sorted(set(value)) == list(value)
    if value and numbers and NUMBERS.search(name):
        return [place for place, number in enumerate(kept) if number in value]
    return [value[number] for number in kept] if len(value) == depth else None


def _keep_rules(text: Any, kept: Sequence[int], depth: int) -> None:
    """Rules by a layer's number, written as what they mean for the layers that stay."""
    if isinstance(first := getattr(text, "first_k_dense_replace", None), int):  # DeepSeek: so many layers without experts at the start
        text.first_k_dense_replace = sum(number < first for number in kept)
    step, plain = getattr(text, "decoder_sparse_step", None), getattr(text, "mlp_only_layers", None)
    if isinstance(step, int) and isinstance(plain, list):  # Qwen: every so many layers has experts, but for those listed
        text.mlp_only_layers = sorted({*plain, *(number for number in range(depth) if (number + 1) % step)})
        text.decoder_sparse_step = 1
    blocks = getattr(text, "block_types", None)
    if isinstance(blocks, list | tuple) and 0 < len(blocks) < depth:  # RecurrentGemma: a pattern that is repeated
        text.block_types = [blocks[number % len(blocks)] for number in range(depth)]
    begin, end, every = (getattr(text, f"moe_layer_{name}", None) for name in ("start_index", "end_index", "interval"))
    if isinstance(begin, int) and isinstance(end, int) and every == 1:  # Ernie: experts from here to there
        last = depth - 1 if end == -1 else end
        text.moe_layer_start_index = sum(number < begin for number in kept)
        text.moe_layer_end_index = sum(number <= last for number in kept) - 1


def _signatures(model: Any) -> tuple[list[Any], Any]:
    """What is fixed about each layer, and about everything beside the layers."""
    stack = layer_stack(model)
    inside = {id(parameter) for parameter in stack.parameters()}
    beside = tuple((name, tuple(weight.shape)) for name, weight in model.named_parameters() if id(weight) not in inside)
    return [_signature(layer) for layer in stack], beside


def _signature(layer: nn.Module) -> Any:
    return tuple(
        (
            name,
            type(module).__name__,
            tuple((key, tuple(value.shape)) for key, value in (*module._parameters.items(), *module._buffers.items()) if value is not None),
            tuple(
                (key, value)
                for key, value in sorted(vars(module).items())
                if not key.startswith("_") and not PLACE.fullmatch(key) and isinstance(value, bool | int | float | str | type(None))
            ),
        )
        for name, module in layer.named_modules()
    )


def _difference(found: Sequence[Any], wanted: Sequence[Any]) -> str:
    """In a few words, what would be different in the first layer that would change."""
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        for ours, theirs in zip(one, other, strict=False):
            if ours[1] != theirs[1]:
                return f"by its configuration, layer {number + 1} would have {ours[1]} where {theirs[1]} was kept"
            for (key, value), (_, before) in zip(ours[3], theirs[3], strict=False):
                if value != before:
                    return f"{key} depends on a layer's number (layer {number + 1} would get {_short(value)} instead of {_short(before)})"
            if ours[2] != theirs[2]:
                return f"the shapes of layer {number + 1} would differ"
        if len(one) != len(other):
            return f"by its configuration, layer {number + 1} would be of another kind than the one that was kept"
    return "parameters outside the layers depend on how many layers there are"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
