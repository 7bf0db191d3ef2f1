"""Weights in few bits: the same as in files of gguf and bitsandbytes, used in every step, learned in full precision beneath."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from letters import gpt2, llama
from pico import Rows, arguments, pico, pico_rows, weights
from pico_exports import model_of

from finetune import registry
from finetune.distillation.grids import Grid
from finetune.distillation.grids.quantised import check_quantised, is_quantised, quantise, settle
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import ModelError, RecipeError
from finetune.recipe.distillation_settings import QuantizeSpec
from finetune.recipe.settings import FromTeacher
from finetune.training.head import head_of

Q4_0 = QuantizeSpec(format="q4_0")


def odd_weights() -> torch.Tensor:
    """[rows, 128] of every kind: zeros, one size with both signs, small, large, already rounded, and ordinary ones."""
    torch.manual_seed(0)
    made = torch.randn(400, 128) * 0.05
    made[0, :32] = 0
    made[1, :32] = torch.tensor([0.5, -0.5]).repeat(16)
    made[2] = made[2] * 1e-6
    made[3] = made[3] * 1e4
    made[4] = made[4].half().float()
    made[5, 5] = 100.0
    made[6] = -made[6].abs()
    return made


def bits(values: Any) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values).view(np.int32)


@pytest.mark.parametrize("name", [name for name in registry.names("grids") if registry.load("grids", name).file_type])
def test_snapped_weights_are_those_of_ggufs_own_quantiser_bit_for_bit(name: str) -> None:
    given, type = odd_weights(), gguf.GGMLQuantizationType[name.upper()]
    meant = gguf.dequantize(gguf.quantize(given.numpy(), type), type)
    np.testing.assert_array_equal(bits(registry.load("grids", name).snapped(given).numpy()), bits(meant))


@pytest.mark.parametrize("shape", [(400, 128), (7, 33), (1, 64)])
def test_nf4_is_that_of_bitsandbytes_bit_for_bit(shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    given = odd_weights().flatten()[: shape[0] * shape[1]].reshape(shape)
    meant = functional.dequantize_4bit(*functional.quantize_4bit(given, quant_type="nf4", blocksize=64))
    np.testing.assert_array_equal(bits(registry.load("grids", "nf4").snapped(given).numpy()), bits(meant.numpy()))


@pytest.mark.parametrize("name", registry.names("grids"))
def test_snapping_again_changes_nothing(name: str) -> None:
    grid: Grid = registry.load("grids", name)
    once = grid.snapped(odd_weights())
    assert torch.equal(grid.snapped(once), once)
    assert grid.snapped(odd_weights().double()).dtype == torch.float32


def models() -> dict[str, Any]:
    return {"llama": llama(seed=1), "gpt2": gpt2(seed=1), "untied": model_of("phi3", 64, seed=1)}


@pytest.mark.parametrize("name", models())
def test_the_gradient_with_respect_to_the_snapped_weights_is_the_weights(name: str) -> None:
    quantised, plain, ids = models()[name], models()[name], torch.arange(3, 15)[None]
    quantise(quantised, Q4_0)
    quantise(plain, Q4_0)
    settle(plain)
    assert is_quantised(quantised)
    assert not is_quantised(plain)
    for model in (quantised, plain):
        model(input_ids=ids, labels=ids).loss.backward()
    ours, theirs = dict(quantised.named_parameters()), dict(plain.named_parameters())
    different = 0
    for key, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-5, atol=1e-7)
        different += int(not torch.equal(parameter, theirs[key]))
    assert different >= 8  # the weights themselves are not rounded
    snapped = registry.load("grids", "q8_0").snapped(head_of(quantised).weight)
    assert torch.equal(head_of(quantised).weight, snapped)  # but those of head and embeddings


def quantised_training(folder: Any, **changes: Any) -> Any:
    student, teacher = model_of("llama", 131, seed=3), model_of("llama", 131, seed=4)
    quantise(student, Q4_0)
    for module in (student.get_input_embeddings(), student.get_output_embeddings()):
        module.requires_grad_(False)
    given = arguments(folder, learning_rate=1e-3, **changes)
    return DistillationTrainer(student, given, teacher_model=teacher, train_dataset=Rows(pico_rows(12)), alpha=0.0, temperature=1.0)


def test_they_are_snapped_once_an_optimizer_step_however_it_is_cut(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    grid = registry.load("grids", "q4_0")
    usual = type(grid).snapped
    monkeypatch.setattr(type(grid), "snapped", lambda self, weight: counted.append(1) or usual(self, weight))
    trainer = quantised_training(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, optim="adamw_torch_fused")
    counted.clear()  # what the checks of the trainer looked at
    trainer.train()
    layers = 2 * 7
    assert trainer.state.global_step == 3
    assert len(counted) == layers * 2  # the weights of the first step are known already


def test_other_optimizers_of_the_process_are_left_alone(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    usual = torch.autograd.graph.increment_version
    monkeypatch.setattr(torch.autograd.graph, "increment_version", lambda weights: counted.extend(map(id, weights)) or usual(weights))
    trainer = quantised_training(tmp_path, optim="adamw_torch_fused")
    weight = torch.nn.Parameter(torch.ones(4))
    other = torch.optim.AdamW([weight], lr=0.1, fused=True)
    trainer.train()
    assert {id(each) for each in trainer.model.parameters() if each.requires_grad} == set(counted)
    weight.grad = torch.ones(4)
    other.step()
    assert id(weight) not in counted


def test_accumulated_steps_are_those_of_whole_batches(tmp_path: Any) -> None:
    found = []
    for cut in ({"per_device_train_batch_size": 6}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}):
        trainer = quantised_training(tmp_path, **cut)
        before = weights(trainer.model)
        trainer.train()
        found.append({name: value - before[name] for name, value in weights(trainer.model).items()})
    one, other = found
    assert max(float(value.abs().max()) for value in one.values()) > 1e-4
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-6)
        assert bool(value.any()) == ("embed_tokens" not in name and "lm_head" not in name)


def test_the_weights_may_move_to_another_place() -> None:
    model = llama(seed=1)
    quantise(model, Q4_0)
    layer: Any = model.model.layers[0].mlp.up_proj
    first = layer.on_grid()
    assert layer.on_grid() is first
    layer.weight.data = layer.weight.data * 2
    assert not torch.equal(layer.on_grid(), first)
    with torch.inference_mode():
        layer.weight.data = layer.weight.data.clone()
        known = layer.on_grid()
    assert not known.is_inference()  # else the next step could not keep it for its backward pass


@pytest.mark.parametrize(
    ("shape", "format", "said", "hint"),
    [
        ({"intermediate_size": 40}, "q4_0", r"a row of .*mlp\.down_proj has 40 weights, not a multiple of 32", "quantize=nf4"),
        ({"hidden_size": 48, "num_attention_heads": 6, "head_dim": 16}, "q8_0", "has 48 weights, not a multiple of 32", "quantize=nf4"),
    ],
)
def test_rows_that_are_no_whole_blocks_are_named(shape: dict[str, int], format: str, said: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        check_quantised(llama(**shape), QuantizeSpec(format=format), "my_model")
    assert hint in str(caught.value.hint)
    check_quantised(llama(**shape), QuantizeSpec(format="nf4"), "my_model")


def test_heads_that_would_fit_are_proposed() -> None:
    model = llama(num_attention_heads=2, head_dim=8)
    with pytest.raises(RecipeError, match="o_proj has 16 weights") as caught:
        check_quantised(model, Q4_0, "my_model", FromTeacher(heads=2))
    assert "model.from_teacher.heads=4" in str(caught.value.hint)


def test_what_llama_cpp_does_not_run_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ModelError, match="is a opt, which cannot be exported to GGUF; these can: llama, mistral") as caught:
        check_quantised(pico("opt"), Q4_0, "my_model")
    assert "quantize=nf4" in str(caught.value.hint)
    check_quantised(pico("opt"), QuantizeSpec(format="nf4"), "my_model")
