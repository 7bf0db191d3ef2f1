"""Matrix products in float32 on a CPU, by the library that is fastest there: the same numbers up to rounding.

    linear(x, weight, bias)      # as torch.nn.functional.linear, inside autograd functions or without gradients
    use_fast_linear(model)               # every plain linear layer of a model multiplies so, with gradients

torch hands float32 products to MKL, which keeps its AVX-512 kernels for Intel's processors; on others it takes twice as long as oneDNN,
which is bundled with torch and used for bfloat16.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.hardware.cpu import cpu_name


def use_fast_linear(model: nn.Module) -> None:
    """Let the plain linear layers of a model use the fastest product; layers of other classes are not changed."""
    if onednn_is_quicker():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = FastLinear


def use_plain_linear(model: nn.Module) -> None:
    """Undo `use_fast_linear`, for what has to recognise the layers."""
    for module in model.modules():
        if isinstance(module, FastLinear):
            cast(nn.Module, module).__class__ = nn.Linear


@cache
def onednn_is_quicker() -> bool:
    """Whether torch's own float32 products miss this processor's AVX-512; a fact of the machine, so that runs repeat bit for bit."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "Intel" not in cpu_name()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] @ weight.T [in, out] + bias -> [..., out]; either factor may be a transposed view. Keeps no graph."""
    if not uses_onednn(x, weight):
        return nn.functional.linear(x, weight, bias)
    rows = torch.ops.mkldnn._linear_pointwise(_dense(x.reshape(-1, x.shape[-1])), _dense(weight), bias, "none", [], "")
    # Not a view: some models add in place to what an autograd function gave them.
    return cast(Tensor, rows if x.dim() == 2 else torch.ops.aten._unsafe_view(rows, [*x.shape[:-1], len(weight)]))


def _dense(factor: Tensor) -> Tensor:
    """Without gaps between its rows or columns: for anything else oneDNN has a loop that is a thousand times slower."""
    if factor.is_contiguous() or factor.t().is_contiguous():
        return factor
    return factor.t().contiguous().t() if factor.stride(0) == 1 else factor.contiguous()


def uses_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` multiplies these by oneDNN."""
    suits = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return suits and x.numel() > 0 and onednn_is_quicker()


def learned_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` with gradients, and torch's own product where that is not for these, or under autocast."""
    if torch.is_autocast_enabled(x.device.type) or not uses_onednn(x, weight):
        return nn.functional.linear(x, weight, bias)
    return cast(Tensor, _Linear.apply(x, weight, bias))  # type: ignore[no-untyped-call]


class FastLinear(nn.Linear):
    """A linear layer that multiplies by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return learned_linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight if x.requires_grad else None)
        return linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = linear(flat.t(), x.reshape(-1, x.shape[-1]).t()) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, flat.sum(0) if ctx.needs_input_grad[2] else None
