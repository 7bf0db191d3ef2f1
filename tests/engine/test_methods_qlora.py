"""Weights in 4 bits: the gradients are those of the weights as rounded, nothing packs them anew, nothing else is cast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import MACHINE, ROWS, WIDE, finished, trained
from pico import pico
from transformers.pytorch_utils import Conv1D

from finetune import registry
from finetune.errors import NotHere
from finetune.events import Recorder
from finetune.methods.base import MethodContext
from finetune.methods.lora_kernel import give_back
from finetune.models.load import load_model, round_to_4bit
from finetune.models.location import locate
from finetune.recipe import Recipe
from finetune.run.finetuner import LLMFineTuner
from finetune.runtime import RuntimeOptions
from finetune.training.head import check_head, needs_mask

IDS = torch.tensor([row["input_ids"] for row in ROWS])


def pair(folder: Path, architecture: str = "llama", **changes: Any) -> tuple[Any, Any]:
    """A pico model in 4 bits, and the same in float32 with the values that the 4 bits stand for."""
    pico(architecture, **changes).save_pretrained(folder)
    located = locate(str(folder), RuntimeOptions(), Recorder())
    quantised, widened = load_model(located, MACHINE, load_in="4bit"), load_model(located, MACHINE)
    original = [parameter.clone() for parameter in widened.parameters()]
    round_to_4bit(widened, quantised)
    assert any(not torch.equal(was, now) for was, now in zip(original, widened.parameters(), strict=True))
    return quantised, widened


def bits(model: Any) -> dict[str, torch.Tensor]:
    """Every stored number of the model, the scales of 4-bit weights included."""
    return {key: value.clone() for key, value in model.state_dict().items() if "lora_" not in key}


@pytest.mark.parametrize(("architecture", "changes"), [("llama", WIDE), ("gpt2", {"n_embd": 64})])
def test_rounded_weights_answer_as_the_4_bit_ones(architecture: str, changes: dict[str, Any], tmp_path: Path) -> None:
    quantised, widened = pair(tmp_path, architecture, **changes)
    assert any(isinstance(module, Conv1D) for module in widened.modules()) == (architecture == "gpt2")
    with torch.no_grad():
        torch.testing.assert_close(widened(IDS).logits, quantised(IDS).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_rounded_weights_whatever_was_measured_before(checkpointing: bool, tmp_path: Path) -> None:
    quantised, widened = pair(tmp_path, **WIDE)
    spec = Recipe.from_layers({"method": {"kind": "qlora", "dropout": 0}}).method
    models = [registry.load("methods", "qlora").attach(quantised, spec, MethodContext(10, seed=3))]
    models.append(registry.load("methods", "lora").attach(widened, spec, MethodContext(10, seed=3)))
    give_back(models[1])  # with peft's own arithmetic
    before = bits(models[0])
    for model in models:
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        check_head(model)
        assert not needs_mask(model)
        model.generate(IDS[:, :3], max_new_tokens=2, do_sample=False)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(IDS, labels=IDS).loss.backward()
    theirs = dict(models[1].named_parameters())
    adapters = [(name, parameter) for name, parameter in models[0].named_parameters() if parameter.requires_grad]
    assert len(adapters) == 2 * 7 * 3
    for name, parameter in adapters:
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    after = bits(models[0])
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_embeddings_norms_and_the_head_stay_as_they_were_loaded(tmp_path: Path) -> None:
    quantised, _ = pair(tmp_path, **WIDE)
    kept = {name for name, module in quantised.named_modules() if hasattr(module, "weight") and module.weight.is_floating_point()}
    layers = {f"model.layers.{number}.{norm}" for number in range(3) for norm in ("input_layernorm", "post_attention_layernorm")}
    assert kept == {"model.embed_tokens", "lm_head", "model.norm"} | layers
    dtypes = {name: parameter.dtype for name, parameter in quantised.named_parameters()}
    spec = Recipe.from_layers({"method": {"kind": "qlora"}}).method
    attached = registry.load("methods", "qlora").attach(quantised, spec, MethodContext(10))
    for name, parameter in attached.named_parameters():
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        assert "lora_" in name or parameter.dtype == dtypes[plain]


def test_an_adapter_of_a_4_bit_base_is_put_on_the_rounded_weights_when_they_are_widened(tmp_path: Path) -> None:
    run = trained("qlora", tmp_path, epochs=10)
    model = finished(run)
    run.method.save(model, tmp_path / "result")
    (tmp_path / "result" / "run").mkdir()
    run.recipe.with_changes({"model": str(tmp_path / "base")}).save(tmp_path / "result" / "run" / "recipe.yaml")
    located = locate(str(tmp_path / "result"), RuntimeOptions(), Recorder())
    assert located.base_load_in == "4bit"
    with torch.no_grad():
        torch.testing.assert_close(load_model(located, MACHINE)(IDS).logits, model(IDS).logits, rtol=0, atol=1e-3)


def test_a_cpu_is_told_that_it_will_be_slower() -> None:
    qlora, spec = registry.load("methods", "qlora"), Recipe.from_layers({"method": "qlora"}).method
    assert "time" in qlora.notes(spec, "cpu")[0]
    assert qlora.notes(spec, "cuda") == []


def test_without_bitsandbytes_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("finetune.methods.qlora.find_spec", lambda name: None)
    tuner = LLMFineTuner(Recipe.from_layers({"method": "qlora", "output_dir": str(tmp_path / "out")}))
    with pytest.raises(NotHere, match="pip install bitsandbytes"):
        tuner.check()
