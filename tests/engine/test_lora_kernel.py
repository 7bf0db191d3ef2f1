"""The fused LoRA forward against peft's own: the same numbers and gradients, dropout that keeps its share and its expectation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from letters import gpt2, llama
from peft import LoraConfig, get_peft_model
from pico import NAMES, pico
from torch import Tensor, nn

from finetune.methods.lora_kernel import _dropout, _FusedForward, _GatedForward, speed_up
from finetune.methods.targets import linear_targets

MODELS = {"llama": llama, "gpt2": gpt2}


def adapted(name: str, *, dtype: torch.dtype = torch.float64, dropout: float = 0.0, **config: Any) -> Any:
    """A model whose adapter already does something: both of its matrices are random."""
    model = MODELS[name](seed=3).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # GPT-2's own, which is not what is compared
    targets = linear_targets(model)
    torch.manual_seed(4)
    made = get_peft_model(
        model,
        LoraConfig(
            r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM", **config
        ),
    )
    return made.to(dtype).train()


def both(name: str, **options: Any) -> tuple[Any, Any]:
    """The same model with peft's own forward and with ours."""
    theirs = adapted(name, **options)
    ours = copy.deepcopy(theirs)
    assert speed_up(ours) > 0
    return theirs, ours


def fused(model: Any) -> list[_FusedForward]:
    return [module.forward for module in model.modules() if isinstance(module.__dict__.get("forward"), _FusedForward)]


def layer(dropout: float, *, dtype: torch.dtype = torch.float64, size: int = 24) -> Any:
    """One linear layer with a random adapter and the fused forward."""
    torch.manual_seed(1)
    made = get_peft_model(
        nn.Sequential(nn.Linear(size, 16)),
        LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["0"], init_lora_weights=False),
    ).to(dtype)
    assert speed_up(made) == 1
    return made.train()


def ids(vocabulary: int = 30) -> Tensor:
    return torch.randint(3, vocabulary, (3, 11), generator=torch.Generator().manual_seed(2))


def outputs_and_gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    out = model(input_ids=ids()).logits
    out.float().pow(2).mean().backward()
    return {"logits": out.detach(), **{name: value.grad for name, value in model.named_parameters() if value.grad is not None}}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_values_and_gradients_are_those_of_peft(name: str, dtype: torch.dtype, tolerance: float) -> None:
    theirs, ours = map(outputs_and_gradients, both(name, dtype=dtype))
    assert ours.keys() == theirs.keys()
    assert sum("lora_" in key for key in ours) >= 8
    for key, value in theirs.items():
        assert value.abs().max() > 0, key
        torch.testing.assert_close(
            ours[key], value, rtol=tolerance, atol=tolerance * float(value.abs().max()), msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_computes_what_it_did(name: str) -> None:
    """Mixtures of experts keep their experts in one tensor, Phi-3 its gates in one layer: whatever is not known is left alone."""
    model = pico(name, dtype=torch.float64)
    targets = linear_targets(model)
    torch.manual_seed(4)
    theirs = get_peft_model(
        model, LoraConfig(r=4, target_modules=targets, fan_in_fan_out=name == "gpt2", init_lora_weights=False, task_type="CAUSAL_LM")
    ).double()
    ours = copy.deepcopy(theirs)
    assert speed_up(ours) >= 6
    found = outputs_and_gradients(ours)
    for key, value in outputs_and_gradients(theirs).items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9 * float(value.abs().max()), msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_adapter_gets_a_gradient(name: str) -> None:
    found = outputs_and_gradients(both(name)[1])
    assert {key for key in found if "lora_" not in key} == {"logits"}


def test_the_gradient_reaches_the_input_so_that_lower_layers_learn() -> None:
    made = layer(0.0)
    x = torch.randn(5, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: made(value), (x,))


def test_with_dropout_the_gradients_are_those_of_the_same_mask() -> None:
    """Finite differences with the generator set back before each call, so that every forward loses the same elements."""
    made = layer(0.3)
    x = torch.randn(5, 24, dtype=torch.float64, requires_grad=True)
    learn = [value for value in made.parameters() if value.requires_grad]
    assert len(learn) == 2

    def forward(value: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(11)
        return made(value)

    assert torch.autograd.gradcheck(forward, (x, *learn))


def test_the_gated_block_has_the_gradients_of_its_mask_too() -> None:
    block = both("llama", dropout=0.3)[1].get_base_model().model.layers[0].mlp
    assert isinstance(block.forward, _GatedForward)
    x = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)

    def forward(value: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(11)
        return block(value)

    assert torch.autograd.gradcheck(forward, (x, *(value for value in block.parameters() if value.requires_grad)))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_dropout_loses_its_share(share: float) -> None:
    torch.manual_seed(0)
    rows = torch.ones(400, 500)
    lost = float(torch.zeros(rows.numel()).index_fill_(0, _dropout(rows, share)[1], 1).mean())
    assert lost == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / rows.numel()))


def test_dropout_loses_no_place_more_often_than_another() -> None:
    torch.manual_seed(0)
    rows = torch.ones(4, 5)
    times = torch.zeros(20)
    for _ in range(4000):
        times[_dropout(rows, 0.1)[1].unique()] += 1
    assert (times / 4000 - 0.1).abs().max() < 0.03


def test_dropout_keeps_the_expectation() -> None:
    made = layer(0.2)
    x = torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.manual_seed(5)
        tries = torch.cat([made(x) for _ in range(3000)])
        expected = made.eval()(x)
    error = (tries.mean(0) - expected[0]).abs()
    assert (error < 5 * tries.std(0) / math.sqrt(3000) + 1e-9).all()
    assert tries.std(0).min() > 0


def test_there_is_no_dropout_outside_training() -> None:
    made = layer(0.5).eval()
    x = torch.randn(4, 24, dtype=torch.float64)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.equal(made(x), made(x))


@pytest.mark.parametrize("name", MODELS)
def test_merged_and_disabled_adapters_are_left_to_peft(name: str) -> None:
    theirs, ours = both(name)
    with ours.disable_adapter(), theirs.disable_adapter(), torch.no_grad():
        assert torch.equal(ours(input_ids=ids()).logits, theirs(input_ids=ids()).logits)
    with torch.no_grad():
        apart = ours(input_ids=ids()).logits
        for model in (ours, theirs):
            model.merge_adapter()
        torch.testing.assert_close(ours(input_ids=ids()).logits, theirs(input_ids=ids()).logits, rtol=0, atol=0)
        torch.testing.assert_close(ours(input_ids=ids()).logits, apart, rtol=1e-9, atol=1e-9)
        ours.unmerge_adapter()
        torch.testing.assert_close(ours(input_ids=ids()).logits, apart, rtol=1e-9, atol=1e-9)
        plain = ours.merge_and_unload()
        torch.testing.assert_close(plain(input_ids=ids()).logits, apart, rtol=1e-9, atol=1e-9)
    assert fused(plain) == []


def test_a_second_adapter_that_is_switched_to_is_used() -> None:
    ours = both("llama")[1]
    torch.manual_seed(9)
    ours.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False))
    ours = ours.double()
    with torch.no_grad():
        first = ours(input_ids=ids()).logits
        ours.set_adapter("other")
        second = ours(input_ids=ids()).logits
        ours.set_adapter("default")
        assert not torch.allclose(first, second)
        assert torch.equal(ours(input_ids=ids()).logits, first)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "bias"])
def test_variants_that_compute_something_else_are_left_to_peft(config: dict[str, Any]) -> None:
    model = adapted("llama", **config)
    assert speed_up(model) == 0
    assert fused(model) == []


def test_under_autocast_the_adapter_follows_the_16_bit_arithmetic() -> None:
    theirs, ours = both("llama", dtype=torch.float32)
    exact = outputs_and_gradients(ours)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, reference = outputs_and_gradients(ours), outputs_and_gradients(theirs)
    assert not torch.equal(half["logits"].float(), exact["logits"])
    for key, value in exact.items():
        assert half[key].dtype == reference[key].dtype, key
        ours_off, theirs_off = (float((found[key].float() - value).norm() / value.norm()) for found in (half, reference))
        assert ours_off < max(1.5 * theirs_off, 0.02), f"{key} is further from float32 than peft's own"


def test_16_bit_weights_and_32_bit_adapters_give_16_bit_outputs_and_32_bit_gradients() -> None:
    ours = both("llama", dtype=torch.float32)[1]
    exact = outputs_and_gradients(ours)
    for name, value in ours.named_parameters():
        if "lora_" not in name:
            value.data = value.data.bfloat16()
    found = outputs_and_gradients(ours)
    for key, value in exact.items():
        assert found[key].dtype == (torch.bfloat16 if key == "logits" else torch.float32), key
        assert float((found[key].float() - value).norm() / value.norm()) < 0.25, key  # eight bits, through two layers


def test_a_saved_adapter_does_not_know_that_it_was_sped_up(tmp_path: Any) -> None:
    theirs, ours = both("gpt2", dtype=torch.float32)
    for model, folder in ((theirs, "theirs"), (ours, "ours")):
        model.save_pretrained(tmp_path / folder)
    assert (tmp_path / "ours" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "theirs" / "adapter_model.safetensors"
    ).read_bytes()
