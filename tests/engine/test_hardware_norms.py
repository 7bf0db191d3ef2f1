"""Norms as one kernel: the same states and gradients as a model's own, and none of those that compute something else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import NAMES, arguments, pico, pico_rows
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

from finetune.hardware.kernels import fuse_norms, rms_norm, use_fused_norms
from finetune.training.trainer import SupervisedTrainer

PLAIN = ("llama", "qwen2", "qwen3", "phi3", "mixtral", "granite")
ROWS = torch.arange(40).reshape(2, 20) * 7 % 131


def fused(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def learned(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(input_ids=ROWS, labels=ROWS).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def own_norms(model: Any) -> None:
    """Weights that are not all one, which a norm would not be known by."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.normal_(1, 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_fused_norms_learns_the_same(name: str) -> None:
    model = pico(name, dtype=torch.float64)
    own_norms(model)
    whole = learned(model)
    fuse_norms(model, "cpu")
    assert bool(fused(model)) is (name in PLAIN)
    loss, gradients = learned(model)
    torch.testing.assert_close(loss, whole[0])
    torch.testing.assert_close(gradients, whole[1], rtol=1e-4, atol=1e-6)  # a model's own computes in 32 bits


def test_in_16_bits_it_is_as_close_to_the_truth_as_the_model_s_own() -> None:
    def states(model: Any) -> Tensor:
        return model.double()(input_ids=ROWS).logits if model is precise else model(input_ids=ROWS).logits.double()

    precise, rounded, once = (pico("llama", dtype=torch.bfloat16) for _ in range(3))
    for model in (precise, rounded, once):
        own_norms(model)
    fuse_norms(once, "cpu")
    with torch.no_grad():
        truth, theirs, ours = states(precise), states(rounded), states(once)
    assert (ours - truth).square().mean() < 1.1 * (theirs - truth).square().mean()


def test_norms_with_another_weight_or_a_gate_stay_as_they_are() -> None:
    gated = Qwen3NextRMSNormGated(8)
    gemma = pico("gemma2")
    for model in (gated, gemma, nn.RMSNorm(8), nn.LayerNorm(8)):
        fuse_norms(model, "cpu")
        assert not fused(model)


def test_norms_without_a_weight_beside_norms_of_the_same_class_with_one_stay_as_they_are() -> None:
    weighted, bare = Gemma4RMSNorm(8), Gemma4RMSNorm(8, with_scale=False)  # of queries, and of values
    states = torch.randn(2, 8)
    expected = bare(states)
    fuse_norms(model := nn.ModuleList([weighted, bare]), "cpu")
    assert fused(model) == ["0"]
    assert torch.equal(bare(states), expected)


def test_states_of_another_dtype_or_device_take_the_model_s_own_way() -> None:
    norm = pico("llama").model.norm
    states = torch.randn(2, 24, dtype=torch.bfloat16)
    assert rms_norm(norm, "cpu", states).dtype == type(norm).forward(norm, states).dtype
    with Operations() as seen:
        rms_norm(norm, "cuda", states.float())
    assert "aten::to" not in seen.names
    assert "aten::rsqrt" in seen.names


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("again", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copied", "pickled"])
def test_a_copy_uses_its_own_weights(again: Callable[[Any], Any]) -> None:
    model = pico("llama")
    fuse_norms(model, "cpu")
    copy = again(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    expected = pico("llama")(input_ids=ROWS).logits
    torch.testing.assert_close(copy(input_ids=ROWS).logits, expected, rtol=1e-4, atol=1e-4)


def test_nothing_changes_without_a_gpu_and_a_trainer_changes_it_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico("llama")
    use_fused_norms(model)
    assert not fused(model)
    monkeypatch.setattr("finetune.hardware.kernels.torch.cuda.is_available", lambda: True)
    use_fused_norms(model)
    assert len(fused(model)) == 2 * len(model.model.layers) + 1
    monkeypatch.undo()
    made = SupervisedTrainer(model=model, args=arguments(tmp_path, max_steps=1), train_dataset=pico_rows(4))
    assert made.train().global_step == 1


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no kernels for GPUs")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_on_a_gpu_a_norm_is_one_kernel(dtype: torch.dtype) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        norm = LlamaRMSNorm(24)
        norm.weight = nn.Parameter(torch.ones(24, dtype=dtype))
        states = torch.randn(2, 24, dtype=dtype)
        with Operations() as seen:
            found = rms_norm(norm, "cuda", states)
    assert [name for name in seen.names if name.startswith("aten::") and name != "aten::detach"] == ["aten::_fused_rms_norm"]
    assert (found.dtype, found.device.type) == (dtype, "cuda")
