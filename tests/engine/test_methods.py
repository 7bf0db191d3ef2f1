"""What a user is promised of every method: it learns, leaves the base alone, and comes back from disk as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pico import pico
from transformers import AutoModelForCausalLM

from finetune import registry
from finetune.events import Recorder
from finetune.methods.base import MethodContext
from finetune.models.machine import inspect
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.session import train
from finetune.training.steps import steps_of

IDS = [[n + 1, n + 2, 5, 9 + n, 3 * n + 7, 4] for n in range(4)]
ROWS = [{"input_ids": ids, "labels": [-100, -100, *ids[2:]], "length": len(ids)} for ids in IDS]
METHODS = ("lora", "full")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(kind: str, folder: Path, **training: Any) -> tuple[Any, dict[str, torch.Tensor], list[float]]:
    """The trained model, the base weights as they were, and the losses of the steps."""
    torch.manual_seed(0)
    base = pico("llama")
    base.save_pretrained(folder / "base")
    method = registry.load("methods", kind)
    recipe = Recipe.from_layers(
        {"method": {"kind": kind}, "training": {"epochs": 60, "learning_rate": 2e-2 if kind != "full" else 2e-3, **training}}
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rows = Rows()
    model = method.attach(model, recipe.method, MethodContext(total_steps=steps_of(recipe.training, len(rows)), seed=1))
    recorder = Recorder()
    train(
        model,
        None,
        rows,
        recipe,
        inspect(RuntimeOptions(device="cpu", dtype="float32")),
        recorder,
        folder=folder / "checkpoints",
        callbacks=method.callbacks(model, recipe.method),
    )
    return model, before, [event.loss for event in recorder.events if event.name == "step"]


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return ROWS[number]


@pytest.mark.parametrize("kind", METHODS)
def test_four_rows_are_learnt_by_heart(kind: str, tmp_path: Path) -> None:
    _, _, losses = trained(kind, tmp_path)
    assert losses[-1] < 0.25 * losses[0]


def test_lora_leaves_the_base_weights_bit_for_bit(tmp_path: Path) -> None:
    model, before, _ = trained("lora", tmp_path, epochs=3)
    after = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): weight
        for name, weight in model.state_dict().items()
        if "lora_" not in name
    }
    assert before.keys() <= after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight), name


@pytest.mark.parametrize("kind", METHODS)
def test_what_was_trained_comes_back_from_disk_with_equal_logits(kind: str, tmp_path: Path) -> None:
    model, _, _ = trained(kind, tmp_path, epochs=10)
    model.save_pretrained(tmp_path / "result")
    ids = torch.tensor([ROWS[0]["input_ids"]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "result", dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-5)
