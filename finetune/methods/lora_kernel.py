"""peft's LoRA and AdaLoRA layers with fewer passes over memory: the same numbers, one autograd node for each adapted linear layer.

    model = get_peft_model(model, config)
    speed_up(model)

    y = x W^T + b + s * dropout(x) A^T B^T          (Hu et al. 2021, arXiv 2106.09685, equation 3)

peft computes this as nine operations, each of which reads and writes the whole activation, and keeps four of the results until the
backward pass. Here scale and sum happen inside the matrix products, the dropped input is computed again instead of being kept, and
16-bit base weights meet the adapter without a detour through 32-bit activations. 4-bit weights are dequantised for each product and not
stored. Saving, merging and loading stay peft's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.hardware.matmul import FastLinear, linear


def speed_up(model: nn.Module) -> int:
    """Give every plain LoRA layer of a peft model the fused forward; returns how many. Other layers keep peft's own.

    One layer of each kind is compared with peft's forward first, and where the two differ that kind keeps peft's.
    """
    from peft.tuners.adalora import AdaLoraLayer
    from peft.tuners.lora import LoraLayer

    fused: dict[Any, _FusedForward] = {}
    agrees: dict[Any, bool] = {}
    for module in model.modules():
        if not isinstance(module, LoraLayer) or not _is_plain(module):
            continue
        forward = (_FusedSVD if isinstance(module, AdaLoraLayer) else _FusedForward)(module)
        kind = _kind_of(module)
        if kind not in agrees:
            agrees[kind] = _agrees(forward)
        if agrees[kind]:
            module.forward = fused[module] = forward
    for module in model.modules():
        if getattr(module, "down_proj", None) in fused and _is_gated(module):
            module.forward = _GatedForward(module, fused[module.down_proj])
    return len(fused)


def give_back(model: nn.Module) -> None:
    """Undo `speed_up`: otherwise a block would keep using the fused layer after the adapter is removed."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _FusedForward | _GatedForward):
            del module.forward


def _is_plain(module: Any) -> bool:
    """One adapter without variants (DoRA and others) on a linear layer that does what its class says.

    Its class must be known exactly: a subclass may round its inputs, scale its outputs, or keep its weights in another form.
    """
    names, base = list(module.lora_A), module.get_base_layer()
    return (
        len(names) == 1
        and not getattr(module, "lora_variant", {})
        and not getattr(module, "lora_bias", {}).get(names[0], False)
        and getattr(module, "parameter_name", "weight") == "weight"
        and type(base) in (_packed_types() if _in_4_bits(base) else _known_types())
        and (base.weight.is_floating_point() or _in_4_bits(base))
        and not _is_changed(base)
        and type(module.lora_A[names[0]]) in (nn.Linear, nn.Parameter)
    )


@cache
def _known_types() -> tuple[type, ...]:
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, FastLinear, Conv1D


@cache
def _packed_types() -> tuple[type, ...]:
    from bitsandbytes.nn import Linear4bit, LinearFP4, LinearNF4

    return Linear4bit, LinearFP4, LinearNF4


def _is_changed(base: nn.Module) -> bool:
    """Whether something wraps the forward of one layer: hooks, or another forward than its class's (accelerate only moves)."""
    return ("forward" in base.__dict__ and not hasattr(base, "_hf_hook")) or any(
        getattr(base, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def _kind_of(module: Any) -> tuple[Any, ...]:
    """What decides how a layer computes, beside its numbers."""
    base, name = module.get_base_layer(), next(iter(module.lora_A))
    settings = (base.weight.dtype, base.bias is None, _in_4_bits(base), base.weight.is_meta, getattr(module, "fan_in_fan_out", False))
    return type(module), type(base), type(module.lora_dropout[name]), *settings


@torch.no_grad()
def _agrees(forward: _FusedForward) -> bool:
    """Whether the fused forward of a layer gives what peft's gives, with an adapter that does something."""
    module, base = forward.module, forward.module.get_base_layer()
    if base.weight.is_meta:
        return True
    width, was_training = forward.adapter()[0].shape[1], module.training
    x = torch.linspace(-2, 2, 2 * width, device=base.weight.device).reshape(2, width).to(_dtype_of(base))
    # What starts at zero hides the rest: B, and the singular values of AdaLoRA.
    silent: list[Any] = [held for part in ("lora_B", "lora_E") if (held := getattr(module, part, {})) and forward.name in held]
    weights = [getattr(held[forward.name], "weight", held[forward.name]) for held in silent]
    kept = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.copy_(torch.linspace(-1, 1, weight.numel(), device=weight.device).reshape(weight.shape))
    module.eval()
    try:
        ours, theirs = forward(x).float(), forward.original(x).float()
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)
        module.train(was_training)
    tolerance = 1e-3 if _dtype_of(base) in (torch.float32, torch.float64) else 0.05
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def _in_4_bits(base: Any) -> bool:
    return getattr(base.weight, "quant_state", None) is not None


def _dtype_of(base: Any) -> torch.dtype:
    """What a layer computes in."""
    return cast(torch.dtype, base.compute_dtype if _in_4_bits(base) else base.weight.dtype)


def _is_gated(module: Any) -> bool:
    """Whether a module is the gated feed-forward block of Llama and its kin: down(act(gate(x)) * up(x)), found by trying."""
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "act_fn")) or module.down_proj.get_base_layer().weight.is_meta:
        return False
    width = module.gate_proj.get_base_layer().in_features if hasattr(module.gate_proj, "get_base_layer") else module.gate_proj.in_features
    down = module.down_proj.get_base_layer()
    x = torch.linspace(-2, 2, width, device=down.weight.device)[None].to(_dtype_of(down))
    was_training = module.training
    with torch.no_grad():
        module.eval()
        ours = module.down_proj(module.act_fn(module.gate_proj(x)) * module.up_proj(x))
        theirs = module(x)
        module.train(was_training)
    return torch.equal(ours, theirs)


class _FusedForward:
    """Stands in for the `forward` of one peft layer, and steps aside whenever its adapter is merged, disabled or not alone."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.original = module.forward
        self.name = next(iter(module.lora_A))

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.applies():
            return cast(Tensor, self.original(x, *args, **kwargs))
        return self.fused(_itself, x)

    def applies(self) -> bool:
        module = self.module
        return not (module.disable_adapters or module.merged) and module.active_adapters == [self.name]

    def fused(self, make: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """The layer's output for the input make(*parts), of which only the parts are kept."""
        module = self.module
        base = module.get_base_layer()
        dropout = module.lora_dropout[self.name]
        share = dropout.p if module.training and isinstance(dropout, nn.Dropout) else 0.0
        device = parts[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else _dtype_of(base)
        down, up, scale = self.adapter()
        turned = getattr(module, "fan_in_fan_out", False)  # stored as [in, out], as GPT-2 does
        weight: Any = partial(_dequantised, base, dtype) if _in_4_bits(base) else (base.weight.t() if turned else base.weight).to(dtype)
        bias = None if base.bias is None else base.bias.to(dtype)
        inputs = (part.to(dtype) for part in parts)
        output = _LoRALinear.apply(make, scale, share, weight, bias, down.to(dtype), up.to(dtype), *inputs)  # type: ignore[no-untyped-call]
        return cast(Tensor, output)

    def adapter(self) -> tuple[Tensor, Tensor, float]:
        """A [r, in], B [out, r] and the scale of their product."""
        return self.module.lora_A[self.name].weight, self.module.lora_B[self.name].weight, self.module.scaling[self.name]


class _FusedSVD(_FusedForward):
    """AdaLoRA's layer: A is diag(E) Q, computed at each call, and B is P."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.scale = float(module.scaling[self.name] / (module.ranknum[self.name] + 1e-5)) if not module.lora_E[self.name].is_meta else 1.0

    def adapter(self) -> tuple[Tensor, Tensor, float]:
        return self.module.lora_A[self.name] * self.module.lora_E[self.name], self.module.lora_B[self.name], self.scale


def _dequantised(base: Any, dtype: torch.dtype) -> Tensor:
    """4-bit weights as a matrix [out, in] in `dtype`."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype)


class _GatedForward:
    """down(act(gate(x)) * up(x)), keeping the two factors for the backward pass instead of both, the activation and the product."""

    def __init__(self, module: Any, down: _FusedForward) -> None:
        self.module = module
        self.down = down
        self.original = module.forward
        self.multiply = lambda gate, up: module.act_fn(gate) * up

    def __call__(self, x: Tensor) -> Tensor:
        if not self.down.applies():
            return cast(Tensor, self.original(x))
        return self.down.fused(self.multiply, self.module.gate_proj(x), self.module.up_proj(x))


def _itself(x: Tensor) -> Tensor:
    return x


class _LoRALinear(torch.autograd.Function):
    """x = make(*parts) [..., in], weight [out, in], down (A) [r, in], up (B) [out, r] -> [..., out]; weight and bias get no gradient.

    A weight may also be a function that makes it, and is then made again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        make: Callable[..., Tensor],
        scale: float,
        dropout: float,
        weight: Tensor | Callable[[], Tensor],
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        with torch.autocast(parts[0].device.type, enabled=False):
            x = make(*parts)
            rows = x.reshape(-1, x.shape[-1])
            kept, lost = _dropout(rows, dropout)
            inner = linear(kept, down)
            y = linear(x, weight if isinstance(weight, Tensor) else weight(), bias)
            y.view(-1, y.shape[-1]).addmm_(inner, up.t(), alpha=scale / (1 - dropout))
        ctx.make, ctx.scale = make, scale / (1 - dropout)
        ctx.make_weight = None if isinstance(weight, Tensor) else weight
        ctx.save_for_backward(None if ctx.make_weight else weight, down, up, inner, lost, *parts)
        return y  # no view: some models add to it in place

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, down, up, inner, lost, *parts = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        with torch.autocast(grad.device.type, enabled=False):
            parts, x = _made_again(ctx.make, parts)
            rows = x.detach().reshape(-1, x.shape[-1])
            grad_inner = linear(flat, up.t()).mul_(ctx.scale)
            grad_up = (flat.t() @ inner).mul_(ctx.scale)
            grad_down = linear(grad_inner.t(), _without(rows, lost).t())
            if not any(ctx.needs_input_grad[7:]):
                return *(None,) * 5, grad_down, grad_up, *(None for _ in parts)
            grad_x = linear(flat, (ctx.make_weight() if ctx.make_weight else weight).t())
            if lost is None:
                grad_x.addmm_(grad_inner, down)
            else:
                through_adapter = linear(grad_inner, down.t())
                grad_x.add_(_without(through_adapter, lost))
            grad_x = grad_x.view(x.shape)
            grads = (grad_x,) if ctx.make is _itself else torch.autograd.grad(x, parts, grad_x)
        return *(None,) * 5, grad_down, grad_up, *grads


def _made_again(make: Callable[..., Tensor], parts: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The parts and what `make` makes of them, with the graph between them where there is one."""
    if make is _itself:
        return parts, parts[0]
    with torch.enable_grad():
        fresh = [part.detach().requires_grad_() for part in parts]
        return fresh, make(*fresh)


def _dropout(rows: Tensor, share: float) -> tuple[Tensor, Tensor | None]:
    """The inputs [n, in] without the `share` that dropout zeroes, and what tells which those are: a mask of the others, or flat places.

    An element survives k draws from n with probability (1 - 1/n)^k, so k = ln(1 - share) / ln(1 - 1/n) draws lose exactly the share. On a
    CPU, drawing the few that are lost is ten times cheaper than a random number for every element, and so is keeping their places; a
    place may come up twice. A GPU draws for every element in less time than it takes to write to scattered places.
    """
    if not share:
        return rows, None
    if rows.device.type not in ("cpu", "mps"):
        mask = torch.empty_like(rows, dtype=torch.bool).bernoulli_(1 - share)
        return _without(rows, mask), mask
    elements = rows.numel()
    draws = round(math.log1p(-share) / math.log1p(-1 / elements)) if elements > 1 else 0
    lost = torch.randint(elements, (draws,), device=rows.device)
    return _without(rows, lost), lost


def _without(rows: Tensor, lost: Tensor | None) -> Tensor:
    if lost is None:
        return rows
    if lost.dtype == torch.bool:
        return cast(Tensor, torch.ops.aten.native_dropout_backward(rows, lost, 1.0))
    kept = rows.clone(memory_format=torch.contiguous_format)
    kept.view(-1).index_fill_(0, lost, 0)
    return kept
