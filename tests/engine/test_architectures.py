"""Every architecture of the zoo through the engine: trained by LoRA and in full, saved, loaded by transformers and peft alone, merged."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lengths import few
from peft import PeftModel
from pico import Rows
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from zoo import ALIKE, ALL, MIXTURES, SEEING, save

from finetune import registry
from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.methods.base import MethodContext
from finetune.methods.inventory import Inventory
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.planning.shape import what_learns
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.loop import train

MACHINE = inspect(RuntimeOptions(device="cpu", dtype="float32"))
IDS = [[n + 3, n + 4, 5, 9 + n, 3 * n + 7, 4, 11, 12 + n] for n in range(4)]
ROWS = [{"input_ids": ids, "labels": [-100, -100, *ids[2:]], "length": len(ids)} for ids in IDS]
PROBE = torch.tensor([IDS[0], IDS[1]])

# What does not multiply hidden states: embeddings, heads, norms, convolutions, the constants of state spaces.
BESIDE = re.compile(
    r"embed|lm_head|wte|wpe|norm\.weight|conv|A_log|time_|sinks|bias|vision|visual|projector|connector|lru|lambda|per_head|shared_lookup|word_"
)
ROUTERS = r"\.(gate|router)\.(layer\.)?weight$|router\.weight$"
# Which weights LoRA leaves out, by their names in the base, and what the plan says of them.
LEFT_OUT: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("mixtral", *MIXTURES), (ROUTERS, "Routers are not adapted")),
    **dict.fromkeys(("mamba", "falcon_mamba"), (r"mixer\.(x|dt|out)_proj\.weight", "dt_proj, out_proj, x_proj cannot be adapted")),
    **dict.fromkeys(("mamba2", "bamba", "falcon_h1"), (r"(mixer|mamba)\.out_proj", "out_proj cannot be adapted")),
    "dbrx": (r"router|experts", "The experts of this architecture cannot be adapted by peft"),
    "jamba": (ROUTERS + r"|dt_proj\.weight", "dt_proj cannot be adapted"),
    "granitemoehybrid": (ROUTERS + r"|mamba\.out_proj", "out_proj cannot be adapted"),
    "qwen3_next": (ROUTERS, "Routers are not adapted"),
    "zamba2": (r"out_proj|shared_transformer", "several layers use the same weights"),
}


def share_of(model: Any, left_out: str) -> float:
    """The share of the weights in linear layers that no pattern names, counted by the names and shapes of the parameters."""
    counts = {key: value.numel() for key, value in model.named_parameters() if value.dim() > 1 and not BESIDE.search(key)}
    return 1 - sum(number for key, number in counts.items() if left_out and re.search(left_out, key)) / sum(counts.values())


def loaded(name: str, folder: Path) -> Any:
    """By transformers alone."""
    kind = AutoModelForImageTextToText if name in SEEING else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=PROBE, use_cache=False).logits


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.isfinite(one).all()
    torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * float(other.abs().max()))


class Trained:
    """A method on a saved model: what the plan promised, the model after two steps, and its weights before.

    `model` takes the place of the one that would be loaded from the folder.
    """

    def __init__(self, base: Path, folder: Path, model: Any = None, **method: Any) -> None:
        recipe = Recipe.from_layers({"method": method, "training": {"epochs": 2, "learning_rate": 0.02, "warmup": 0}})
        located = locate(str(base), RuntimeOptions(), Recorder())
        self.method, spec = registry.load("methods", recipe.method.kind), recipe.method
        self.promised = what_learns(located, self.method, spec)
        model = load_model(located, MACHINE) if model is None else model
        self.before = logits(model)
        inventory = Inventory.of(model)
        self.model: Any = self.method.attach(model, spec, MethodContext(2, seed=1))
        self.coverage = inventory.coverage(self.model, spec)
        self.trainable = {key: value.detach().clone() for key, value in self.model.named_parameters() if value.requires_grad}
        train(self.model, None, Rows(ROWS), recipe, MACHINE, Recorder(), folder=folder / f"{recipe.method.kind}-checkpoints")
        moved = dict(self.model.named_parameters())
        # Ernie's correction of its routers is a parameter that no gradient reaches.
        self.unmoved = [key for key, value in self.trainable.items() if torch.equal(value, moved[key]) and "e_score_corr" not in key]
        self.after = logits(self.model)


@pytest.fixture(autouse=True)
def little_garbage() -> None:
    """The classes of an architecture stay in memory; what collects garbage need not look at them again."""
    gc.freeze()


COMMON = ["gpt2", "llama", "qwen3", "phi3", "mixtral", "gemma3_text", "olmo2", "qwen3_moe", "gpt_oss", "mamba2", "qwen3_next", "gemma3"]


@pytest.mark.parametrize("name", few([name for name in ALL if name not in ALIKE], *COMMON))
def test_what_is_trained_is_what_the_plan_said_and_the_same_everywhere(name: str, tmp_path: Path) -> None:
    base = save(name, tmp_path / "base")
    run = Trained(base, tmp_path, kind="lora", r=4)
    promised(name, base, run.coverage, run.promised)
    assert run.promised.trainable == sum(value.numel() for value in run.trainable.values())
    assert run.unmoved == []
    assert all("lora_" in key for key in run.trainable)
    assert (run.after - run.before).abs().max() > 1e-3 * run.before.abs().max()
    model = elsewhere(name, base, run.model, run.method, run.after, tmp_path)

    full = Trained(base, tmp_path, model, kind="full")
    assert full.coverage.share == full.promised.share == 1.0
    assert full.unmoved == []
    full.method.save(full.model, tmp_path / "full")
    same(logits(loaded(name, tmp_path / "full")), full.after)


@pytest.mark.parametrize("name", few(ALIKE, "mistral", "gemma", "cohere2", "glm", "olmoe", "bamba", "qwen2", "gemma2", "granite"))
def test_a_random_adapter_is_the_same_everywhere(name: str, tmp_path: Path) -> None:
    """Architectures that are close to one above, without the training."""
    base = save(name, tmp_path / "base")
    spec = Recipe.from_layers({"method": {"kind": "lora", "r": 4}}).method
    located, method = locate(str(base), RuntimeOptions(), Recorder()), registry.load("methods", "lora")
    model: Any = load_model(located, MACHINE)
    inventory = Inventory.of(model)
    model = method.attach(model, spec, MethodContext(2))
    promised(name, base, inventory.coverage(model, spec), what_learns(located, method, spec))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key:
                value.normal_(std=0.1)
    elsewhere(name, base, model, method, logits(model), tmp_path)


def promised(name: str, base: Path, coverage: Any, plan: Any) -> None:
    """The share that is adapted is what the plan said, and what the names of the weights say."""
    left_out, said = LEFT_OUT.get(name, ("", ""))
    assert coverage.share == plan.share == pytest.approx(share_of(loaded(name, base), left_out))
    assert coverage.notes == plan.notes
    assert said in " ".join(plan.notes)


def elsewhere(name: str, base: Path, model: Any, method: Any, expected: torch.Tensor, folder: Path) -> Any:
    """The saved adapter gives the same logits by transformers alone, by peft alone, and merged; returns the merged model."""
    method.save(model, folder / "adapter")
    same(logits(loaded(name, folder / "adapter")), expected)
    same(logits(PeftModel.from_pretrained(loaded(name, base), folder / "adapter")), expected)
    merged = model.merge_and_unload(safe_merge=True)
    merged.save_pretrained(folder / "merged")
    same(logits(loaded(name, folder / "merged")), expected)
    return merged


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_routers_keep_their_weights_under_an_adapter(name: str, tmp_path: Path) -> None:
    base = save(name, tmp_path / "base")
    model = Trained(base, tmp_path, kind="lora", r=2).model.unload()
    for key, value in loaded(name, base).state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
