"""A student is what its own configuration describes: that is how it is loaded again.

student = rebuilt(model, config, weights)       # a model of that configuration with these weights
check_rebuilt(student)                          # raises ModelError if loading the saved student would give another model
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finetune.distillation.students import READY_MADE
from finetune.errors import ModelError
from finetune.formatting import percent
from finetune.hardware.matmul import use_fast_linear
from finetune.training.head import causal_lm, check_finite

PROBE = 24  # tokens


def rebuilt(model: nn.Module, config: Any, weights: Mapping[str, Tensor]) -> Any:
    """A model of the same class from a configuration, with `weights`, which are not copied; raises RuntimeError where they do not fit."""
    from accelerate import init_empty_weights

    inner = causal_lm(model)
    first = next(inner.parameters())
    with init_empty_weights(include_buffers=False):
        again = type(inner)._from_config(copy.deepcopy(config), dtype=first.dtype)
    again.load_state_dict(weights, strict=True, assign=True)
    again.tie_weights()
    use_fast_linear(again.to(first.device).eval())
    return again


@torch.no_grad()
def check_rebuilt(student: nn.Module) -> None:
    """Build a model from the student's configuration, give it the student's weights and compare their logits; raises ModelError.

    That is what loading a saved student does. The weights are shared with it, not copied.
    """
    inner = causal_lm(student)
    why = ""
    try:
        again = rebuilt(inner, inner.config, inner.state_dict())
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip().rstrip(".")[:200]
    if not why:
        ours, theirs = (model(input_ids=probe(inner), use_cache=False).logits for model in (inner, again))
        check_finite(ours, inner)
        off = off_by(theirs, ours)
        if not off <= (1e-3 if ours.dtype in (torch.float32, torch.float64) else 0.02):
            why = f"its logits are {percent(off, 1)} off"
    if why:
        raise ModelError(
            f"A student cut out of {type(inner).__name__} would not be the same model when it is loaded again: {why}.", hint=READY_MADE
        )


def probe(model: Any) -> Tensor:
    """A few token ids [1, PROBE] that the model has."""
    embeddings: Tensor = model.get_input_embeddings().weight
    return torch.arange(PROBE, device=embeddings.device)[None] % embeddings.shape[0]


def off_by(logits: Tensor, wanted: Tensor) -> float:
    """The largest difference of two models' logits, as a share of the largest of those that are wanted."""
    return float((logits.float() - wanted.float()).abs().max() / wanted.float().abs().max())
