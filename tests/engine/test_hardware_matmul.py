"""Products by oneDNN: the numbers and gradients of torch's own, on whatever the factors look like."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pico import pico
from torch import Tensor, nn

from finetune.hardware import matmul
from finetune.hardware.matmul import FastLinear, linear, use_fast_linear, uses_onednn


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it is the quicker one; oneDNN itself runs on every CPU."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(matmul, "onednn_is_quicker", lambda: True)


def factor(layout: str, rows: int, columns: int) -> Tensor:
    made = torch.randn(2 * rows, 2 * columns)
    return {
        "plain": lambda: made[:rows, :columns].contiguous(),
        "turned": lambda: made[:columns, :rows].contiguous().t(),
        "with gaps": lambda: made[:rows, :columns],
        "turned, with gaps": lambda: made[:columns, :rows].t(),
    }[layout]()


@pytest.mark.parametrize("weight", ["plain", "turned", "with gaps", "turned, with gaps"])
@pytest.mark.parametrize("x", ["plain", "turned", "with gaps", "turned, with gaps"])
def test_factors_of_every_layout_give_the_same_product(onednn: None, x: str, weight: str) -> None:
    one, other = factor(x, 37, 24), factor(weight, 50, 24)
    assert uses_onednn(one, other)
    torch.testing.assert_close(linear(one, other), one @ other.t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24), (0, 24)])
def test_a_layer_has_the_values_and_gradients_it_had(onednn: None, shape: tuple[int, ...], bias: bool) -> None:
    plain = nn.Linear(24, 50, bias=bias)
    quick = copy.deepcopy(plain)
    use_fast_linear(quick)
    assert type(quick) is FastLinear
    found = []
    for layer in (plain, quick):
        x = torch.linspace(-1, 1, max(1, torch.Size(shape).numel()))[: torch.Size(shape).numel()].view(shape).requires_grad_()
        y = layer(x)
        (y * torch.linspace(0, 1, 50)).sum().backward()
        found.append([y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trains", ["weight", "x", "bias", "nothing"])
def test_only_what_trains_gets_a_gradient(onednn: None, trains: str) -> None:
    layer = FastLinear(8, 4).requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=trains == "x")
    if trains in ("weight", "bias"):
        getattr(layer, trains).requires_grad_()
    y = layer(x)
    assert y.requires_grad == (trains != "nothing")
    if y.requires_grad:
        y.sum().backward()
    got: dict[str, Any] = {"weight": layer.weight.grad, "bias": layer.bias.grad, "x": x.grad}
    assert [name for name, gradient in got.items() if gradient is not None] == ([trains] if trains != "nothing" else [])


def test_other_dtypes_and_autocast_are_left_to_torch(onednn: None) -> None:
    layer, x = FastLinear(8, 4), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer.double()(x.double()), nn.functional.linear(x.double(), layer.weight, layer.bias))


def test_a_whole_model_says_and_learns_the_same(onednn: None) -> None:
    plain, ids = pico("llama", seed=1), torch.arange(12)[None]
    quick = copy.deepcopy(plain)
    use_fast_linear(quick)
    assert any(type(module) is FastLinear for module in quick.modules())
    gradients = []
    for model in (plain, quick):
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(quick(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
    again = copy.deepcopy(quick)
    with torch.no_grad():
        again.get_input_embeddings().weight.mul_(2)
        next(module for module in again.modules() if type(module) is FastLinear).weight.zero_()
    assert not torch.equal(again(input_ids=ids).logits, quick(input_ids=ids).logits), "a copy multiplies by its own weights"


@pytest.mark.parametrize(
    ("cpu", "capability", "quicker"),
    [
        ("AMD EPYC 9654", "AVX512", True),
        ("AMD EPYC 7763", "AVX2", False),
        ("Intel(R) Xeon(R) Platinum 8480+", "AVX512", False),
        ("Apple M3", "DEFAULT", False),
    ],
)
def test_which_processors_multiply_so(monkeypatch: pytest.MonkeyPatch, cpu: str, capability: str, quicker: bool) -> None:
    monkeypatch.setattr(matmul, "cpu_name", lambda: cpu)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert matmul.onednn_is_quicker.__wrapped__() == quicker


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
def test_what_a_layer_gives_can_be_added_to_in_place(onednn: None, shape: tuple[int, ...]) -> None:
    y = FastLinear(24, 50)(torch.randn(shape))
    y += 1
    y.sum().backward()
