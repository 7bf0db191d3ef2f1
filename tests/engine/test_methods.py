"""What a user is promised of every method: it learns, leaves the base alone, and comes back from disk as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lengths import few
from method_runs import ADAPTERS, QUANTISED, ROWS, VARIANTS, finished, reloaded, trained
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from finetune import registry
from finetune.recipe import Recipe

IDS = torch.tensor([ROWS[0]["input_ids"]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@pytest.mark.parametrize("name", few(VARIANTS, "lora", "qlora", "adalora", "full"))
def test_four_rows_are_learnt_by_heart(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path)
    assert run.losses[-1] < 0.25 * run.losses[0]


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_leaves_the_base_weights_bit_for_bit(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path, epochs=5)
    with torch.no_grad():
        finished(run).eval()(IDS)  # measuring must not change them either
    after = {key.replace("base_model.model.", "").replace(".base_layer", ""): value for key, value in run.model.state_dict().items()}
    assert run.base.keys() <= after.keys()
    for key, value in run.base.items():
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_trained_comes_back_from_disk_with_equal_logits(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path, epochs=10)
    before = logits(run.model)
    model = finished(run)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-4)
    run.method.save(model, tmp_path / "result")
    torch.testing.assert_close(logits(reloaded(tmp_path / "result", name)), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in QUANTISED])
def test_it_loads_with_transformers_and_with_peft_as_they_are(name: str, tmp_path: Path) -> None:
    run = trained(name, tmp_path, epochs=10)
    model = finished(run)
    run.method.save(model, tmp_path / "result")
    loaders = [AutoModelForCausalLM, AutoPeftModelForCausalLM] if name in ADAPTERS else [AutoModelForCausalLM]
    for loader in loaders:
        again = loader.from_pretrained(tmp_path / "result", dtype=torch.float32).eval()
        torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_was_learnt_shows_only_with_the_adapter(name: str, tmp_path: Path) -> None:
    model = finished(trained(name, tmp_path, epochs=10)).eval()
    with model.disable_adapter():
        without = logits(model)
    assert (logits(model) - without).abs().max() > 0.1


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_says_what_it_is_what_it_costs_and_how_fast_it_may_learn(name: str) -> None:
    method = registry.load("methods", name)
    spec = Recipe.from_layers({"method": {"kind": name}}).method
    assert method.title
    assert len(method.summary) <= 80
    assert method.footprint(spec).activations > 0
    assert 0 < method.learning_rate < 1
