"""Fewer layers: one block of layers is left out, everything else is kept.

The block is the one that changes the residual stream least: the angular distance between its input and its output, averaged over
calibration tokens (Gromov et al. 2024, arXiv 2403.17887). The first and the last layer stay.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    passes = 1

    def planned(self, config: Any, amount: float, build: Build) -> Any:
        from finetune.distillation.students.cutting import first_cut, kept_layers

        return first_cut(config, kept_layers(amount, config.get_text_config().num_hidden_layers), build)

    def make(self, teacher: nn.Module, amount: float, rows: Rows) -> Made:
        """ModelError too if the layers cannot be found, or if a model built from the student's configuration would not be the student."""
        from finetune.distillation.students.cutting import kept_layers, layer_stack

        count = kept_layers(amount, len(layer_stack(teacher)))
        return without(teacher, blocks_to_leave_out(teacher, [count], rows)[count])


@dataclass(frozen=True)
class Block:
    """Layers start .. start + length - 1, and the mean angle, as a share of 180 degrees, by which they turn the residual stream."""

    start: int
    length: int
    distance: float


def blocks_to_leave_out(teacher: nn.Module, counts: Iterable[int], rows: Rows) -> dict[int, Block]:
    """For each count of layers to keep the block that a student can do without best, all from one pass over the rows.

    Raises ModelError if there is a count for which no block can be left out.
    """
    from finetune.distillation.students.cutting import layer_stack, possible_starts
    from finetune.training.head import causal_lm

    model = causal_lm(teacher)
    depth = len(layer_stack(model))
    starts = {depth - count: possible_starts(model.config, depth - count, type(model)._from_config) for count in counts}
    return {depth - length: block for length, block in least_turning_blocks(teacher, starts, rows).items()}


def without(teacher: nn.Module, block: Block) -> Made:
    """The student that lacks a block of its teacher's layers."""
    from finetune.distillation.students.cutting import kept_without, layer_stack
    from finetune.distillation.students.rebuilding import check_rebuilt

    depth = len(layer_stack(teacher))
    count = depth - block.length
    student = _copy_with(teacher, kept_without(block.start, block.length, depth))
    check_rebuilt(student)
    first, last = block.start + 1, block.start + block.length
    why = f"{first} to {last} are left out, because they change least what passes through them"
    if first == last:
        why = f"layer {first} is left out, because it changes least what passes through it"
    said = f"The student keeps {count} of {depth} layers: {why}."
    return Made(student, said, {"layers": count, "of_layers": depth, "left_out": [first, last]})


def least_turning_blocks(model: nn.Module, starts: Mapping[int, Sequence[int]], rows: Rows) -> dict[int, Block]:
    """Of each length the block of layers whose input and output point in the most similar directions.

    `starts` maps a length to the layers that a block of so many may begin with.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    from finetune.distillation.students.cutting import layer_stack

    totals = {length: dict.fromkeys(places, 0.0) for length, places in starts.items()}
    tokens = 0
    for stream in _residual_streams(model, layer_stack(model), rows):
        tokens += stream[0].shape[0]
        for length, places in totals.items():
            for start in places:
                cosine = cosine_similarity(stream[start], stream[start + length], dim=-1)
                places[start] += float(torch.arccos(cosine.clamp(-1, 1)).sum()) / math.pi
    best = {length: min(places, key=places.__getitem__) for length, places in totals.items()}
    return {length: Block(start, length, totals[length][start] / tokens) for length, start in best.items()}


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
    from finetune.distillation.students.cutting import cut_in_place, layer_stack
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
