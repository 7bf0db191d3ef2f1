"""Pico models trained with each registered method as a run trains them: loaded, attached, trained, finished.

run = trained("adalora", folder, epochs=10)
model = finished(run)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pico import Rows, pico

from finetune import registry
from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.methods.base import MethodContext
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.loop import train
from finetune.training.step_count import steps_of

# Every method that is registered, by its name, and settings of theirs that change what is trained.
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"kind": name} for name in registry.names("methods")},
    "rslora": {"kind": "lora", "rslora": True},
    "dora": {"kind": "lora", "dora": True},
    "qdora": {"kind": "qlora", "dora": True},
}
RATES = {"full": 2e-3, "adalora": 4e-2}  # for pico models; another method has twenty times the rate that it has for real ones


def method_of(name: str) -> tuple[Any, Any]:
    """The method of a variant, and its settings."""
    spec = Recipe.from_layers({"method": VARIANTS[name]}).method
    return registry.load("methods", spec.kind), spec


def is_adapter(name: str) -> bool:
    method, spec = method_of(name)
    return bool(method.footprint(spec).adapter)


def load_in(name: str) -> str | None:
    """How the base of a variant is loaded: "4bit", or None for as it is."""
    method, spec = method_of(name)
    found: str | None = method.load_in(spec)
    return found


ADAPTERS = [name for name in VARIANTS if is_adapter(name)]
QUANTISED = [name for name in VARIANTS if load_in(name)]
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # the sizes of real models are multiples of a block of 4-bit weights
IDS = [[n + 1, n + 2, 5, 9 + n, 3 * n + 7, 4] for n in range(4)]
ROWS = [{"input_ids": ids, "labels": [-100, -100, *ids[2:]], "length": len(ids)} for ids in IDS]
MACHINE = inspect(RuntimeOptions(device="cpu", dtype="float32"))


@dataclass
class Trained:
    """The model as training left it, its base's weights as they were, the losses of the steps and everything that was reported."""

    method: Any
    recipe: Recipe
    model: Any
    base: dict[str, torch.Tensor]
    losses: list[float]
    recorder: Recorder


def trained(name: str, folder: Path, *, architecture: str = "llama", method: dict[str, Any] | None = None, **training: Any) -> Trained:
    """A pico model after 60 epochs over four rows, or as `training` says; its base lies in folder/base."""
    torch.set_num_threads(1)
    pico(architecture, **(WIDE if architecture == "llama" else {})).save_pretrained(folder / "base")
    chosen, _ = method_of(name)
    settings = {"epochs": 60, "learning_rate": RATES.get(name, 20 * chosen.learning_rate), **training}
    recipe = Recipe.from_layers({"method": {**VARIANTS[name], **(method or {})}, "training": settings})
    located = locate(str(folder / "base"), RuntimeOptions(), Recorder())
    model: Any = load_model(located, MACHINE, load_in=chosen.load_in(recipe.method))
    base = {key: value.clone() for key, value in model.state_dict().items()}
    context = MethodContext(total_steps=steps_of(recipe.training, len(ROWS)), seed=1)
    model = chosen.attach(model, recipe.method, context)
    recorder = Recorder()
    train(
        model,
        None,
        Rows(ROWS),
        recipe,
        MACHINE,
        recorder,
        folder=folder / "checkpoints",
        callbacks=chosen.callbacks(model, recipe.method),
        penalty=chosen.penalty(model, recipe.method),
    )
    losses = [event.loss for event in recorder.events if event.name == "step"]
    return Trained(chosen, recipe, model, base, losses, recorder)


def finished(run: Trained) -> Any:
    """The model as it would be saved; the run then holds it too."""
    run.model = run.method.finish(run.model, run.recipe.method, run.recorder)
    return run.model


def reloaded(folder: Path, name: str) -> Any:
    """A saved result as a run loads it to measure it again."""
    return load_model(locate(str(folder), RuntimeOptions(), Recorder()), MACHINE, load_in=load_in(name), merge=False)
