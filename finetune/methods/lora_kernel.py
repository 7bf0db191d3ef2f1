"""peft's LoRA layers with fewer passes over memory: the same numbers, one autograd node for each adapted linear layer.

    model = get_peft_model(model, config)
    speed_up(model)

    y = x W^T + b + s * dropout(x) A^T B^T          (Hu et al. 2021, arXiv 2106.09685, equation 3)

peft computes this as nine operations, each of which reads and writes the whole activation, and keeps four of the results until the
backward pass. Here scale and sum happen inside the matrix products, the dropped input is made again instead of being kept, and
16-bit base weights meet the adapter without a detour over 32-bit activations. Saving, merging and loading stay peft's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def speed_up(model: nn.Module) -> int:
    """Give every plain LoRA layer of a peft model the fused forward; returns how many. Other layers keep peft's own."""
    from peft.tuners.lora import Linear

    count = 0
    for module in model.modules():
        if isinstance(module, Linear) and _is_plain(module):
            module.forward = _FusedForward(module)  # type: ignore[method-assign]
            count += 1
    return count


def _is_plain(module: Any) -> bool:
    """One adapter without variants (DoRA and others) on floating-point weights."""
    names = list(module.lora_A)
    return (
        len(names) == 1
        and not getattr(module, "lora_variant", {})
        and not module.lora_bias.get(names[0], False)
        and module.get_base_layer().weight.is_floating_point()
        and type(module.lora_A[names[0]]) is nn.Linear
    )


class _FusedForward:
    """Stands in for the `forward` of one peft layer, and steps aside whenever its adapter is merged, disabled or not alone."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.original = module.forward
        self.name = next(iter(module.lora_A))

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        module, name = self.module, self.name
        if args or kwargs or module.disable_adapters or module.merged or module.active_adapters != [name]:
            return self.original(x, *args, **kwargs)
        base = module.get_base_layer()
        weight = base.weight.t() if module.fan_in_fan_out else base.weight
        dropout = module.lora_dropout[name]
        share = dropout.p if module.training and isinstance(dropout, nn.Dropout) else 0.0
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
        down, up = module.lora_A[name].weight.to(dtype), module.lora_B[name].weight.to(dtype)
        bias = None if base.bias is None else base.bias.to(dtype)
        return _LoRALinear.apply(x.to(dtype), weight.to(dtype), bias, down, up, module.scaling[name], share)


class _LoRALinear(torch.autograd.Function):
    """x [..., in], weight [out, in], down (A) [r, in], up (B) [out, r] -> [..., out]; weight and bias get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float, dropout: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            lost = _lost_elements(rows, dropout) if dropout else None
            inner = _without(rows, lost) @ down.t()
            ctx.scale = scale / (1 - dropout)
            y = nn.functional.linear(rows, weight, bias).addmm_(inner, up.t(), alpha=ctx.scale)
        ctx.save_for_backward(rows, weight, down, up, inner, *(() if lost is None else (lost,)))
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner, *rest = ctx.saved_tensors
        lost = rest[0] if rest else None
        flat = grad.reshape(-1, grad.shape[-1])
        with torch.autocast(grad.device.type, enabled=False):
            grad_inner = (flat @ up).mul_(ctx.scale)
            grad_up = (flat.t() @ inner).mul_(ctx.scale)
            grad_down = grad_inner.t() @ _without(rows, lost)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = flat @ weight
                if lost is None:
                    grad_x.addmm_(grad_inner, down)
                else:
                    through_adapter = grad_inner @ down
                    through_adapter.view(-1).index_fill_(0, lost, 0)
                    grad_x.add_(through_adapter)
                grad_x = grad_x.view(*grad.shape[:-1], grad_x.shape[-1])
        return grad_x, None, None, grad_down, grad_up, None, None


def _lost_elements(rows: Tensor, dropout: float) -> Tensor:
    """Flat places of the inputs that dropout zeroes; a place may come up twice.

    An element survives k draws from n with probability (1 - 1/n)^k, so k = ln(1 - dropout) / ln(1 - 1/n) draws lose exactly the share
    `dropout`. Drawing the few that are lost is ten times cheaper than a random number for every element, and so is keeping them.
    """
    elements = rows.numel()
    draws = round(math.log1p(-dropout) / math.log1p(-1 / elements)) if elements > 1 else 0
    return torch.randint(elements, (draws,), device=rows.device)


def _without(rows: Tensor, lost: Tensor | None) -> Tensor:
    if lost is None:
        return rows
    kept = rows.clone(memory_format=torch.contiguous_format)
    kept.view(-1).index_fill_(0, lost, 0)
    return kept
