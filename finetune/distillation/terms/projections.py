"""Where the two models' states differ in width: linear maps from the student's to the teacher's, which train beside the student.

    maps = ModuleDict({"last": projections(1, 576, 960, like=states)})
    begin(maps["last"][0], student_states, teacher_states)
    with attached(model, maps):
        ...                              # training: optimizer and checkpoints have the maps too

A map begins as ridge regression, so that its first gradients pull the student towards its teacher and not after a random map. Once the
training is over the model is as it was: no saved student has maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.training.head import causal_lm
from finetune.training.loss.chunked import precision

NAME = "feature_maps"  # of the model's part while it trains
RIDGE = 0.01  # as a share of the mean square of the student's states
TOKENS = 2048  # that a map begins with


def projections(count: int, ours: int, theirs: int, like: Tensor) -> nn.ModuleList:
    """`count` maps without content; in float32, or in float64 for a student in float64."""
    made: dict[str, Any] = {"bias": False, "device": like.device, "dtype": precision(like.dtype)}
    return nn.ModuleList(nn.utils.skip_init(nn.Linear, ours, theirs, **made) for _ in range(count))


@torch.no_grad()
def begin(projection: Any, student: Tensor, teacher: Tensor) -> None:
    """Set a map to the W that minimises ||S W^T - T||^2 + r ||W||^2 for states S [n, d] and T [n, d']."""
    s, t = student.cpu().double(), teacher.cpu().double()  # a few thousand tokens; not every device has 64 bits
    square = s.T @ s
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    projection.weight.copy_(torch.linalg.solve(square, s.T @ t).T)


@contextmanager
def attached(model: nn.Module, maps: nn.ModuleDict) -> Iterator[None]:
    """The maps as a part of the model; nothing where there are none."""
    inner = causal_lm(model)
    if len(maps):
        inner.add_module(NAME, maps)
    try:
        yield
    finally:
        if len(maps):
            delattr(inner, NAME)
