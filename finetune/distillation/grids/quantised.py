"""Quantisation-aware training: a model computes with its weights as the file will have them, and learns in full precision beneath.

    check_quantised(model, spec, "my_model")        # also of a model without weights, on torch's meta device
    quantise(model, spec)                           # from now on the model answers as its file will
    count_steps(optimizer)                          # which a trainer does
    ...                                             # training: the weights below move, the snapped ones follow
    settle(model)                                   # the weights themselves are the snapped ones; an ordinary model again

Forward multiplies by W^ = Q(W), and the gradient with respect to W^ is taken for W's (the straight-through estimator, Bengio et al. 2013).
W^ is made once an optimizer step. Embeddings and head are snapped once, at the start, and must be frozen: what is cached of the teacher is
then made for exactly the head of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune import registry
from finetune.distillation.grids import Grid
from finetune.errors import ModelError, RecipeError
from finetune.hardware.matmul import FastLinear, learned_linear, use_fast_linear
from finetune.methods.inventory import tower_names
from finetune.models.gguf_architectures import architecture_of
from finetune.models.layer_configs import head_width
from finetune.recipe.distillation_settings import QuantizeSpec
from finetune.recipe.settings import FromTeacher
from finetune.training.head import causal_lm


class _StraightThrough(torch.autograd.Function):
    """W^ in the forward pass; its gradient is W's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, snapped: Tensor) -> Tensor:
        return snapped.view_as(snapped)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Snapped:
    """What the layers below have: the grid, and W^ until the weight changes."""

    weight: Any
    grid: Grid
    turned = False  # the weight is stored [in, out]
    known: tuple[tuple[int, int], Tensor] | None

    def on_grid(self) -> Tensor:
        """W^, of the same shape as the weight."""
        version = self.weight._version, self.weight.data_ptr()  # optimizers write in place; `.data = ` is another place
        if self.known is None or self.known[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                weight = self.weight.detach()
                snapped = self.grid.snapped(weight.t()).t() if self.turned else self.grid.snapped(weight)
            self.known = version, snapped
        return self.known[1]

    def straight_through(self) -> Tensor:
        return cast(Tensor, _StraightThrough.apply(self.weight, self.on_grid()))  # type: ignore[no-untyped-call]


class SnappedLinear(_Snapped, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return learned_linear(input, self.straight_through(), self.bias)


class SnappedConv1D(_Snapped, Conv1D):
    turned = True

    def forward(self, x: Tensor) -> Tensor:
        return learned_linear(x, self.straight_through().t(), self.bias)


PLAIN: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: SnappedLinear, FastLinear: SnappedLinear, Conv1D: SnappedConv1D}


def quantise(model: nn.Module, spec: QuantizeSpec) -> None:
    """Let a model compute in few bits from now on, its weights in 32; embeddings and head become what the file has of them."""
    model.float()
    grid, head = registry.load("grids", spec.format), spec.head
    for _, layer in _layers(model):
        plain: Any = layer
        plain.__class__ = PLAIN[type(plain)]
        plain.grid, plain.known = grid, None
    if head is not None:
        for module in _ends(model):
            with torch.no_grad():
                module.weight.copy_(registry.load("grids", head).snapped(module.weight))


def count_steps(optimizer: torch.optim.Optimizer) -> None:
    """Let its steps count as changes of its weights; fused ones, which the Trainer uses, do not say so themselves."""

    def changed(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            torch.autograd.graph.increment_version(group["params"])

    optimizer.register_step_post_hook(changed)


def settle(model: nn.Module) -> None:
    """W^ as the weights of an ordinary model, in 32 bits; nothing for a model that is one."""
    for layer in list(model.modules()):
        if isinstance(layer, _Snapped):
            with torch.no_grad():
                layer.weight.copy_(layer.on_grid())
            del layer.known, layer.grid
            cast(Any, layer).__class__ = Conv1D if layer.turned else nn.Linear
    use_fast_linear(model)


def is_quantised(model: nn.Module) -> bool:
    """Whether a model computes with snapped weights."""
    return any(isinstance(layer, _Snapped) for layer in model.modules())


def check_quantised(model: nn.Module, spec: QuantizeSpec, name: str, student: FromTeacher | None = None) -> None:
    """Raises RecipeError for rows that are no whole blocks, and ModelError for what llama.cpp does not run.

    `student` is what the recipe asks to keep of the teacher, for the hint.
    """
    grid = registry.load("grids", spec.format)
    if grid.file_type is not None:
        try:
            architecture_of(causal_lm(model).config, name)
        except ModelError as error:
            raise ModelError(error.message, hint="nf4 is for every architecture: --set distillation.quantize=nf4") from None
    wanted = [(place, layer, grid) for place, layer in _layers(model)]
    if spec.head is not None:
        wanted += [("the embeddings or the head", module, registry.load("grids", spec.head)) for module in _ends(model)]
    for place, layer, each in wanted:
        columns = layer.weight.shape[0 if isinstance(layer, Conv1D) else 1]
        if each.block is not None and columns % each.block:
            raise RecipeError(
                f"{name} cannot be trained in {each.title}: a row of {place} has {columns:,} weights, not a multiple of {each.block}.",
                hint=_instead(model, each.block, student),
            )


def _instead(model: Any, block: int, student: FromTeacher | None) -> str:
    """What would fit: another number of heads, where it is they that were asked for; else the grid without rows."""
    text = causal_lm(model).config.get_text_config(decoder=True)
    if student is not None and student.heads is not None:
        size = head_width(text)
        groups = text.num_key_value_heads if text.num_key_value_heads != text.num_attention_heads else 1
        more = next(n for n in range(text.num_attention_heads, 10**6) if n * size % block == 0 and n % groups == 0)
        return f"Keep another number of heads: --set model.from_teacher.heads={more}, or --set distillation.quantize=nf4"
    return f"Choose a model whose width is a multiple of {block}, or nf4, which fits any: --set distillation.quantize=nf4"


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The linear layers of the text part but the head, with their names."""
    inner = causal_lm(model)
    head, towers = inner.get_output_embeddings(), tower_names(inner)
    for name, layer in inner.named_modules():
        if type(layer) in PLAIN and layer is not head and not name.startswith(tuple(f"{tower}." for tower in towers)):
            yield name, layer


def _ends(model: Any) -> list[Any]:
    """Embeddings and head, tied ones once."""
    inner = causal_lm(model)
    first, last = inner.get_input_embeddings(), inner.get_output_embeddings()
    return [first] if last is None or last.weight is first.weight else [first, last]
