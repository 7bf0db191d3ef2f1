"""Where an adapter attaches, architecture by architecture: every linear layer, never the output head, never a router."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from pico import ARCHITECTURES, GQA_FREE, SMALL, pico

from finetune import registry
from finetune.methods.base import MethodContext
from finetune.methods.targets import find_targets, linear_targets
from finetune.recipe import Recipe
from finetune.training.head import causal_lm

GATED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
FUSED = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
BLOOM = {"vocab_size": SMALL["vocab_size"], "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("Gemma3Text", {**SMALL, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "bloom": ("Bloom", BLOOM),
    "falcon": ("Falcon", {**GQA_FREE, "hidden_size": 32, "new_decoder_architecture": False, "multi_query": True}),
    "qwen2_moe": (
        "Qwen2Moe",
        {**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
}
MIXTURES = ("mixtral", "qwen2_moe")
EXPECTED: dict[str, set[str]] = {
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "project_in", "project_out"},
    "gpt_neox": FUSED,
    "llama": GATED,
    "qwen2": GATED,
    "qwen3": GATED,
    "gemma2": GATED,
    "gemma3": GATED,
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "bloom": FUSED,
    "falcon": FUSED,
    "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "qwen2_moe": GATED | {"shared_expert_gate"},
}


def build(name: str) -> Any:
    if name in ARCHITECTURES:
        return pico(name)
    family, settings = OTHERS[name]
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**settings)).eval()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_targets_are_the_linear_layers_below_the_head(name: str) -> None:
    assert set(linear_targets(build(name))) == EXPECTED[name]


@pytest.mark.parametrize("kind", ["lora", "adalora"])
@pytest.mark.parametrize("name", EXPECTED)
def test_head_embeddings_and_routers_are_left_alone(name: str, kind: str) -> None:
    spec = Recipe.from_layers({"method": {"kind": kind, "r": 4}}).method
    model = registry.load("methods", kind).attach(build(name), spec, MethodContext(20))
    inner = causal_lm(model)
    adapted = {key.rpartition(".")[2] for key, module in model.named_modules() if hasattr(module, "lora_A")}
    experts = {"experts", "base_layer"} if name in MIXTURES and kind == "lora" else set()  # peft's wrappers of the two parameters
    assert adapted == EXPECTED[name] | experts
    for part in (inner.get_output_embeddings(), inner.get_input_embeddings()):
        assert not hasattr(part, "lora_A")
        assert not part.weight.requires_grad
    ids = torch.tensor([[5, 6, 7, 8]])
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    reached = [key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is not None]
    assert {key.split(".lora_")[0].rpartition(".")[2] for key in reached} == EXPECTED[name] | experts


def test_a_layer_whose_part_is_called_like_it_is_left_alone() -> None:
    """CTRL's h.0 has linear layers h.0.ffn.0 and h.0.ffn.2: by its last part the first is called like the whole layer."""
    shape = {"vocab_size": 131, "n_embd": 24, "dff": 40, "n_layer": 3, "n_head": 4}
    model = transformers.CTRLLMHeadModel(transformers.CTRLConfig(**shape))
    spec = Recipe.from_layers({"method": {"kind": "lora", "r": 4}}).method
    assert {"0", "2"} <= set(find_targets(model, "auto", parameters=True).modules)
    adapted = registry.load("methods", "lora").attach(model, spec, MethodContext(20))
    names = {name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    linear = (f"transformer.h.{layer}.{part}" for layer in range(3) for part in ("ffn.0", "ffn.2"))
    assert {name for name in names if ".ffn." in name} == set(linear)
