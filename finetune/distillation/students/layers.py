"""Fewer layers: one block of layers is left out, everything else is kept.

The block is the one that changes the residual stream least: the angular distance between its input and its output, averaged over
calibration tokens (Gromov et al. 2024, arXiv 2403.17887). The first and the last layer stay.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.distillation.students import Build, Made, Rows

if TYPE_CHECKING:
    from torch import Tensor, nn

PLACES = {"layer_idx", "layer_id"}  # what modules call the number of their layer, which addresses the key-value cache


class Layers:
    title = "Fewer layers"
    summary = "fastest: a block of layers is left out"

    def planned(self, config: Any, amount: float, build: Build) -> Any:
        from finetune.distillation.cutting import first_cut, kept_layers

        return first_cut(config, kept_layers(amount, config.get_text_config().num_hidden_layers), build)

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made:
        """ModelError too if the layers cannot be found, or if a model built from the student's configuration would not be the student."""
        from finetune.distillation.cutting import kept_layers, kept_without, layer_stack, possible_starts
        from finetune.distillation.students.rebuilding import check_rebuilt
        from finetune.training.head import causal_lm

        model = causal_lm(teacher)
        depth = len(layer_stack(model))
        count = kept_layers(amount, depth)
        starts = possible_starts(model.config, depth - count, type(model)._from_config)
        block = least_turning_block(teacher, depth - count, rows, starts)
        student = _copy_with(teacher, kept_without(block.start, block.length, depth))
        check_rebuilt(student)
        first, last = block.start + 1, block.start + block.length
        why = f"{first} to {last} are left out, because they change least what passes through them"
        said = f"The student keeps {count} of {depth} layers: {why}."
        return Made(student, said, {"layers": count, "of_layers": depth, "left_out": [first, last]})


@dataclass(frozen=True)
class Block:
    """Layers start .. start + length - 1, and the mean angle, as a share of 180 degrees, by which they turn the residual stream."""

    start: int
    length: int
    distance: float


def least_turning_block(model: nn.Module, length: int, rows: Rows, starts: Sequence[int] | None = None) -> Block:
    """The block of `length` layers whose input and output point in the most similar directions.

    `starts` are the layers it may begin with, by default all but the first and last layer.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    from finetune.distillation.cutting import layer_stack

    stack = layer_stack(model)
    starts = starts or range(1, len(stack) - length)
    totals, tokens = dict.fromkeys(starts, 0.0), 0
    for stream in _residual_streams(model, stack, rows):
        tokens += stream[0].shape[0]
        for start in starts:
            cosine = cosine_similarity(stream[start], stream[start + length], dim=-1)
            totals[start] += float(torch.arccos(cosine.clamp(-1, 1)).sum()) / math.pi
    best = min(starts, key=totals.__getitem__)
    return Block(best, length, totals[best] / tokens)


def _residual_streams(model: nn.Module, stack: nn.ModuleList, rows: Rows) -> Iterator[list[Tensor]]:
    """For each row what enters each layer: tensors [length, d]."""
    from finetune.distillation.students.calibration import calibrated

    stream: list[Tensor] = []

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream.append((args[0] if args else kwargs["hidden_states"])[0].float())

    with ExitStack() as hooks:
        for layer in stack:
            hooks.enter_context(layer.register_forward_pre_hook(entering, with_kwargs=True))
        for _ in calibrated(model, rows):
            yield stream
            stream.clear()


def _copy_with(teacher_model: nn.Module, kept: list[int]) -> Any:
    """A deep copy that holds only the layers `kept`, numbered anew, adapters merged."""
    from finetune.distillation.cutting import cut_in_place, layer_stack
    from finetune.training.head import causal_lm

    stack = layer_stack(teacher_model)
    everything = list(stack)
    # Copying the whole teacher first would take its memory twice.
    _fill(stack, [everything[index] for index in kept])
    try:
        student: Any = copy.deepcopy(teacher_model)
    finally:
        _fill(stack, everything)
    student = student.merge_and_unload() if hasattr(student, "merge_and_unload") else causal_lm(student)
    cut_in_place(student.config, kept)  # which every module holds
    for index, layer in enumerate(layer_stack(student)):
        for module in layer.modules():
            for name in vars(module).keys() & PLACES:
                setattr(module, name, index)
    return student


def _fill(stack: nn.ModuleList, layers: list[nn.Module]) -> None:
    del stack[:]
    stack.extend(layers)
