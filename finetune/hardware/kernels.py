"""The quickest kernels that this machine has for the layers of a model: products on a CPU, RMS norms on a GPU.

    use_fast_kernels(model)

A norm that computes what torch's fused kernel does is run by it, instead of a model's own eight operations over the states in 32 bits.
Forward and backward then read and write the states once, and of a norm in 16 bits only its input is kept. It rounds once, where a model's
own rounds before it multiplies by the weight.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.hardware.matmul import use_fast_linear


def use_fast_kernels(model: nn.Module) -> None:
    """Have the layers of a model compute by them; a layer that has its own way keeps it. Again does nothing more."""
    use_fast_linear(model)
    use_fused_norms(model)


def use_fused_norms(model: nn.Module) -> None:
    """Let the RMS norms of a model run as one kernel while they are on a GPU; those that compute something else stay as they are."""
    if torch.cuda.is_available():
        fuse_norms(model)


def fuse_norms(model: nn.Module, device: str = "cuda") -> None:
    """The same on any kind of device."""
    for module in model.modules():
        kind = type(module)
        unchanged = "forward" not in vars(module)  # which a wrapper may have set
        if "RMSNorm" in kind.__name__ and kind is not nn.RMSNorm and unchanged and _is_plain(module):
            module.forward = partial(rms_norm, module, device)


def rms_norm(module: Any, device: str, states: Tensor) -> Tensor:
    """The forward pass of a norm: torch's where states and weight are of one dtype on this kind of device, else its own."""
    if states.device.type != device or states.dtype != module.weight.dtype:
        return cast(Tensor, type(module).forward(module, states))
    return nn.functional.rms_norm(states, module.weight.shape, module.weight, _epsilon(module))


def _epsilon(module: Any) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


@torch.no_grad()
def _is_plain(module: Any) -> bool:
    """Whether x / sqrt(mean(x^2) + epsilon) * weight is what this norm computes: some have another weight, a gate or none; tried."""
    weight, parameters = getattr(module, "weight", None), list(module.parameters())
    takes = len(inspect.signature(type(module).forward).parameters)
    if _epsilon(module) is None or len(parameters) != 1 or parameters[0] is not weight or weight.dim() != 1 or weight.is_meta or takes != 2:
        return False
    states = torch.linspace(-2, 3, 3 * len(weight), device=weight.device).reshape(3, -1).sin().to(weight.dtype)
    told, found = module(states), nn.functional.rms_norm(states, weight.shape, weight, _epsilon(module))
    tolerance = 1e-5 if weight.dtype in (torch.float32, torch.float64) else 0.02
    return told.dtype == found.dtype and bool(torch.allclose(told.float(), found.float(), rtol=tolerance, atol=tolerance))
