"""A student made from its teacher: one block of layers left out, everything else kept.

    student = make_student(teacher, layers=20, calibration_rows=rows)        # or layers=0.67

The block is the one that changes the residual stream least: the angular distance between its input and its output, averaged over
calibration tokens (Gromov et al. 2024, arXiv 2403.17887). The first and the last layer stay. Embeddings, norm and head are the teacher's,
so both share a tokenizer, and a frozen head allows the gradient cache.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, RecipeError
from finetune.events import Notice, Reporter
from finetune.training.head import backbone_of, causal_lm, hidden_states, token_ids

CALIBRATION_TOKENS = 1024
ROW_TOKENS = 256
PLACES = ("layer_idx", "layer_id")  # what modules call the number of their layer, which addresses the key-value cache


@dataclass(frozen=True)
class Block:
    """Layers start .. start + length - 1, and the mean angle, as a share of 180 degrees, by which they turn the residual stream."""

    start: int
    length: int
    distance: float


def make_student(
    teacher_model: nn.Module, layers: int | float, calibration_rows: Iterable[Mapping[str, Any]], *, reporter: Reporter | None = None
) -> Any:
    """A new model with `layers` (a count, or a share below 1) of the teacher's layers; the teacher stays as it was.

    Rows need `input_ids`; a few thousand of their tokens are used. Raises RecipeError if that many layers cannot be kept, ModelError if the
    teacher is quantised or its layers cannot be found.
    """
    teacher = causal_lm(teacher_model)
    if getattr(teacher, "quantization_method", None):
        raise ModelError("A student cannot be made from a quantised teacher.", hint="Load the teacher without load_in.")
    stack = layer_stack(teacher)
    depth = len(stack)
    count = kept_layers(layers, depth)
    block = least_turning_block(teacher_model, depth - count, calibration_rows)
    kept = [*range(block.start), *range(block.start + block.length, depth)]
    student = _copy_with(teacher_model, kept)
    if reporter is not None:
        dropped = f"{block.start + 1} to {block.start + block.length}"
        reporter.report(
            Notice(
                f"The student keeps {count} of {depth} layers: {dropped} are left out, because they change the residual stream least "
                f"({180 * block.distance:.0f} degrees)."
            )
        )
    return student


def kept_layers(layers: int | float, depth: int) -> int:
    """How many of `depth` layers a count or a share means."""
    count = round(depth * layers) if layers < 1 else int(layers)
    if not 2 <= count < depth:
        raise RecipeError(
            f"model.from_teacher.layers: {layers} means {count} of the teacher's {depth} layers.",
            hint=f"Between 2 and {depth - 1} can be kept: --set model.from_teacher.layers={max(2, round(depth * 0.67))}",
        )
    return count


def layer_stack(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers of a causal model."""
    depth = causal_lm(model).config.get_text_config().num_hidden_layers
    lists = [module for module in backbone_of(model).modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists:
        raise ModelError(f"Cannot find the decoder layers of {type(causal_lm(model)).__name__}.", hint="Choose a ready-made student.")
    return lists[0]


@torch.no_grad()
def least_turning_block(model: nn.Module, length: int, rows: Iterable[Mapping[str, Any]]) -> Block:
    """The block of `length` layers, not counting the first and last layer, whose input and output point in the most similar directions."""
    stack = layer_stack(model)
    starts = range(1, len(stack) - length)
    totals, tokens = dict.fromkeys(starts, 0.0), 0
    for row in rows:
        stream = _residual_stream(model, stack, row["input_ids"])
        tokens += stream[0].shape[0]
        for start in starts:
            cosine = nn.functional.cosine_similarity(stream[start], stream[start + length], dim=-1)
            totals[start] += float(torch.arccos(cosine.clamp(-1, 1)).sum()) / math.pi
        if tokens >= CALIBRATION_TOKENS:
            break
    if not tokens:
        raise RecipeError("A student made from the teacher needs calibration rows, but there are none.")
    best = min(starts, key=totals.__getitem__)
    return Block(best, length, totals[best] / tokens)


def _residual_stream(model: nn.Module, stack: nn.ModuleList, input_ids: Iterable[int]) -> list[Tensor]:
    """What enters each layer: tensors [length, d]."""
    stream: list[Tensor] = []

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream.append((args[0] if args else kwargs["hidden_states"])[0].float())

    with ExitStack() as hooks:
        for layer in stack:
            hooks.enter_context(layer.register_forward_pre_hook(entering, with_kwargs=True))
        hidden_states(model, token_ids(model, list(input_ids)[:ROW_TOKENS]))
    return stream


def _copy_with(teacher_model: nn.Module, kept: list[int]) -> Any:
    """A deep copy that holds only the layers `kept`, numbered anew, adapters merged."""
    stack = layer_stack(teacher_model)
    everything = list(stack)
    # Copying the whole teacher first would take its memory twice.
    _fill(stack, [everything[index] for index in kept])
    try:
        student: Any = copy.deepcopy(teacher_model)
    finally:
        _fill(stack, everything)
    student = student.merge_and_unload() if hasattr(student, "merge_and_unload") else causal_lm(student)
    config = student.config.get_text_config()
    config.num_hidden_layers = len(kept)
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == len(everything) and not name.endswith(("token_id", "architectures")):
            setattr(config, name, [value[index] for index in kept])
    if hasattr(config, "attention_types"):  # of GPT-Neo, whose config says the same twice
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]
    student.config._name_or_path = ""
    for index, layer in enumerate(layer_stack(student)):
        for module in layer.modules():
            for name in PLACES:
                if hasattr(module, name):
                    setattr(module, name, index)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return student.eval()


def _fill(stack: nn.ModuleList, layers: list[nn.Module]) -> None:
    del stack[:]
    stack.extend(layers)
