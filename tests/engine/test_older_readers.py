"""Saved folders read by transformers 4 and peft of its time, in an environment of its own: the same logits, ids and ends as ours.

FINETUNE_OLDER_PYTHON=/path/to/python pytest tests/engine/test_older_readers.py     # `.ci/older` makes that environment, and runs this
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from letters import tokenizer
from pico import ARCHITECTURES, EXPERTS, GQA_FREE, SMALL, pico
from safetensors.torch import save_file

from finetune import registry
from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.methods.base import MethodContext
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import LocatedModel, locate
from finetune.models.saved import complete
from finetune.publish.merged import Merged
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

OLDER = os.environ.get("FINETUNE_OLDER_PYTHON", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not OLDER, reason="needs an environment with transformers 4: see .ci/older")]

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")
IDS = torch.tensor([[3, 9, 27, 12, 8, 31, 4, 7, 19, 22, 5, 6, 14, 2, 11, 30, 17, 1, 25, 33]])
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "shared_intermediate_size": 40}
WIDER = {"hidden_size": 32}  # half of a head's width must be even
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
PER_LAYER = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 9e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 123.0},
}
BOTH = {kind: {"rope_type": "default", "rope_theta": 77.0} for kind in PER_LAYER}


def turning(theta: float, share: float | None = None, **others: Any) -> dict[str, Any]:
    """rope_parameters with a base of rotation that is nobody's default."""
    kind = {"rope_type": "default"} if "rope_type" not in others else {}
    return {"rope_parameters": {**kind, **others, "rope_theta": theta, **({"partial_rotary_factor": share} if share else {})}}


# Architecture and changes of its pico model, or the name of a configuration and all of its settings.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "opt": ("opt", {}),
    "llama": ("llama", turning(77.0)),
    "llama-llama3": ("llama", turning(77.0, **LLAMA3)),
    "llama-linear": ("llama", turning(77.0, rope_type="linear", factor=3.0)),
    "qwen2": ("qwen2", turning(77.0)),
    "qwen2-yarn": ("qwen2", turning(77.0, **YARN)),
    "qwen2-yarn-filled-in": ("qwen2", turning(77.0, rope_type="yarn", factor=4.0)),
    "qwen3": ("qwen3", turning(77.0)),
    "gemma2": ("gemma2", turning(77.0)),
    "gemma3": ("Gemma3Text", {**SMALL, "head_dim": 8, "sliding_window": 4, "layer_types": KINDS, "rope_parameters": PER_LAYER}),
    "gpt_neox": ("gpt_neox", turning(77.0, 0.5)),
    "phi": ("Phi", {**GQA_FREE, **WIDER, **turning(77.0, 0.5)}),
    "phi3": ("phi3", turning(77.0)),
    "phi3-longrope": ("phi3", {"original_max_position_embeddings": 16, **turning(77.0, **LONG)}),
    "stablelm": ("StableLm", {**SMALL, **WIDER, **turning(77.0, 0.5)}),
    "glm4": ("Glm4", {**SMALL, "head_dim": 8, **turning(77.0, 0.5)}),
    "mixtral": ("mixtral", turning(77.0)),
    "granite": ("granite", turning(77.0)),
    "cohere": ("cohere", turning(77.0)),
    "cohere2": ("Cohere2", {**SMALL, "sliding_window": 4, "layer_types": KINDS, **turning(77.0)}),
    "olmo2": ("Olmo2", {**SMALL, **turning(77.0)}),
    "olmo3": ("Olmo3", {**SMALL, "sliding_window": 4, "layer_types": KINDS, "rope_parameters": BOTH}),
    "mistral": ("Mistral", {**SMALL, "sliding_window": 4, **turning(77.0)}),
    "falcon": ("Falcon", {**GQA_FREE, "alibi": False, "new_decoder_architecture": False, **turning(77.0)}),
    "starcoder2": ("Starcoder2", {**SMALL, "sliding_window": 8, **turning(77.0)}),
    "qwen3_moe": (
        "Qwen3Moe",
        {**SMALL, **EXPERTS, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 12, **turning(77.0)},
    ),
    "nemotron": ("Nemotron", {**SMALL, **turning(77.0, 0.5)}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {
            **{**SMALL, **WIDER, **MAMBA, "num_local_experts": 0, "position_embedding_type": "rope"},
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            **turning(77.0),
        },
    ),
    "smollm3": ("SmolLM3", {**SMALL, **turning(77.0)}),
}
# There an adapter of all experts is one of a parameter that version 4 does not have. Merged, they are what it knows.
EXPERTS_ARE_ONE = ("mixtral", "qwen3_moe")


def made(architecture: str, changes: dict[str, Any]) -> Any:
    changes = json.loads(json.dumps(changes))
    if architecture in ARCHITECTURES:
        return pico(architecture, **changes)
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{architecture}Config")(**changes)).eval()


def write(case: Path, architecture: str, changes: dict[str, Any]) -> None:
    """A whole model as it is saved, an adapter on it, the two merged, and what they answer here."""
    base, reads = case / "base", tokenizer(chat=True)
    made(architecture, changes).save_pretrained(base)
    reads.save_pretrained(base)
    located, logits = locate(str(base), RUNTIME, Recorder()), {"ids": IDS}
    model: Any = load_model(located, inspect(RUNTIME))
    logits["model"] = answers(model)
    finish(model, located, case / "model")
    recipe = Recipe.from_layers({"model": str(case / "model"), "output_dir": str(case / "adapter")})
    located, method = locate(str(case / "model"), RUNTIME, Recorder()), registry.load("methods", "lora")
    torch.manual_seed(2)
    adapted = method.attach(load_model(located, inspect(RUNTIME)), recipe.method, MethodContext(20))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    logits["adapter"] = answers(adapted.eval())
    run = RunFolder(case / "adapter")
    run.run.mkdir(parents=True)
    method.save(adapted, run.output_dir)
    complete(run.output_dir, load_tokenizer(located), source=located, base=located, pad=0, chat=True)
    recipe.save(run.recipe)
    Merged.export(run, case / "merged", RUNTIME, Recorder())
    logits["merged"] = answers(load_model(locate(str(case / "merged"), RUNTIME, Recorder()), inspect(RUNTIME)))
    assert (logits["merged"] - logits["model"]).abs().max() > 1e-3, "the adapter does something"
    save_file({name: value.contiguous() for name, value in logits.items()}, case / "logits.safetensors")
    reads = load_tokenizer(locate(str(base), RUNTIME, Recorder()))
    turns = [{"role": "user", "content": "say cat"}, {"role": "assistant", "content": "cat"}]
    text = reads.apply_chat_template(turns, tokenize=False)
    facts = {"text": "a cat, is it?", "turns": turns, "chat": reads(text)["input_ids"], "ids": reads("a cat, is it?")["input_ids"]}
    (case / "facts.json").write_text(json.dumps(facts))


def finish(model: Any, located: LocatedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    complete(folder, load_tokenizer(located), source=located, base=None, pad=0, chat=True)


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("older")
    for name, (architecture, changes) in CASES.items():
        write(folder / name, architecture, changes)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("older_reads.py")
    done = subprocess.run([OLDER, str(script), str(folder)], capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    read: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    if report := os.environ.get("FINETUNE_OLDER_REPORT"):
        Path(report).write_text(json.dumps(read, indent=1))
    return read


@pytest.mark.parametrize("kind", ["model", "adapter", "merged"])
@pytest.mark.parametrize("case", CASES)
def test_an_older_reader_computes_the_same(case: str, kind: str, found: dict[str, dict[str, Any]]) -> None:
    read = found[f"{case} {kind}"]
    assert "error" not in read, read
    if case in EXPERTS_ARE_ONE and kind == "adapter":
        assert read["difference"] > 0.1, "if this is no longer so, the card and the plan need not warn"
    else:
        assert read["difference"] < 1e-4
    assert read["ids"]
    assert read["chat"]
    assert 5 in read["stops"]
    assert read["end"] == "<|end|>"
    assert read["dtype"] == "torch.float32"
    assert read["warnings"] == []
