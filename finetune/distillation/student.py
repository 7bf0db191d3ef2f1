"""A student made from its teacher: one block of layers left out, everything else kept.

    student = make_student(teacher, layers=20, calibration_rows=rows)        # or layers=0.67

The block is the one that changes the residual stream least: the angular distance between its input and its output, averaged over
calibration tokens (Gromov et al. 2024, arXiv 2403.17887). The first and the last layer stay. Embeddings, norm and head are the teacher's,
so both share a tokenizer, and a frozen head allows the gradient cache.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.distillation.cutting import READY_MADE, cut_in_place, kept_layers, kept_without, layer_stack, possible_starts
from finetune.errors import ModelError, RecipeError
from finetune.events import Notice, Reporter
from finetune.formatting import percent
from finetune.hardware.matmul import use_fast_linear
from finetune.training.head import causal_lm, hidden_states, token_ids

CALIBRATION_TOKENS = 1024
ROW_TOKENS = 256
PROBE = 24  # tokens
PLACES = {"layer_idx", "layer_id"}  # what modules call the number of their layer, which addresses the key-value cache


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
    teacher is quantised, its layers cannot be found, or a model built from the student's configuration would not be the student.
    """
    teacher = causal_lm(teacher_model)
    if getattr(teacher, "quantization_method", None):
        raise ModelError("A student cannot be made from a quantised teacher.", hint="Load the teacher without load_in.")
    stack = layer_stack(teacher)
    depth = len(stack)
    count = kept_layers(layers, depth)
    starts = possible_starts(teacher.config, depth - count, type(teacher)._from_config)
    block = least_turning_block(teacher_model, depth - count, calibration_rows, starts)
    student = _copy_with(teacher_model, kept_without(block.start, block.length, depth))
    check_rebuilt(student)
    if reporter is not None:
        dropped = f"{block.start + 1} to {block.start + block.length}"
        reporter.report(
            Notice(
                f"The student keeps {count} of {depth} layers: {dropped} are left out, because they change least what passes through them."
            )
        )
    return student


@torch.no_grad()
def least_turning_block(model: nn.Module, length: int, rows: Iterable[Mapping[str, Any]], starts: Sequence[int] | None = None) -> Block:
    """The block of `length` layers whose input and output point in the most similar directions.

    `starts` are the layers it may begin with, by default all but the first and last layer.
    """
    stack = layer_stack(model)
    starts = starts or range(1, len(stack) - length)
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
    cut_in_place(student.config, kept)  # which every module holds
    student.config._name_or_path = ""
    for index, layer in enumerate(layer_stack(student)):
        for module in layer.modules():
            for name in vars(module).keys() & PLACES:
                setattr(module, name, index)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return student.eval()


@torch.no_grad()
def check_rebuilt(student: nn.Module) -> None:
    """Build a model from the student's configuration, give it the student's weights and compare their logits; raises ModelError.

    That is what loading a saved student does. The weights are shared with it, not copied.
    """
    from accelerate import init_empty_weights

    inner = causal_lm(student)
    dtype = next(inner.parameters()).dtype
    why = ""
    with init_empty_weights(include_buffers=False):
        again = type(inner)._from_config(copy.deepcopy(inner.config), dtype=dtype)
    try:
        again.load_state_dict(inner.state_dict(), strict=True, assign=True)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip().rstrip(".")[:200]
    if not why:
        device = next(inner.parameters()).device
        use_fast_linear(again.to(device).eval())
        ids = torch.arange(PROBE, device=device)[None] % inner.get_input_embeddings().weight.shape[0]
        ours, theirs = (model(input_ids=ids, use_cache=False).logits.float() for model in (inner, again))
        off = float((ours - theirs).abs().max() / ours.abs().max())
        if not off <= (1e-3 if dtype in (torch.float32, torch.float64) else 0.02):
            why = f"its logits are {percent(off, 1)} off"
    if why:
        raise ModelError(
            f"A student cut out of {type(inner).__name__} would not be the same model when it is loaded again: {why}.", hint=READY_MADE
        )


def _fill(stack: nn.ModuleList, layers: list[nn.Module]) -> None:
    del stack[:]
    stack.extend(layers)
