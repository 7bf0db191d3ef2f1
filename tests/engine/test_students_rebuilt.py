"""A student is what its own configuration describes, or it is refused before anything is trained, by the plan too."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import pico_rows
from transformers import AutoModelForCausalLM
from zoo import build, config

from finetune.distillation.students.cutting import cut_config, first_cut, possible_starts
from finetune.distillation.students.making import make_student
from finetune.distillation.students.rebuilding import check_rebuilt
from finetune.errors import ModelError
from finetune.recipe.settings import FromTeacher

ROWS = pico_rows(4)
IDS = torch.arange(4, 16)[None]
FROM = partial(AutoModelForCausalLM.from_config)

# Rules for layers that a configuration can state for any layers that stay: a model of 6 layers, and how many of them stay.
KEPT: dict[str, tuple[dict[str, Any], int]] = {
    "deepseek_v3": ({"first_k_dense_replace": 3}, 4),
    "qwen3_moe": ({"mlp_only_layers": [1, 4]}, 3),
    "qwen2_moe": ({"decoder_sparse_step": 2}, 3),
    "gemma3_text": ({"layer_types": ["sliding_attention", "full_attention"] * 3}, 3),
    "gemma4_text": ({"layer_types": ["sliding_attention", "full_attention"] * 3}, 3),
    "smollm3": ({"no_rope_layers": [1, 1, 0, 1, 0, 1], "layer_types": None}, 4),
    "llama4_text": ({"moe_layers": [1, 2, 5], "no_rope_layers": [1, 0, 1, 1, 0, 1], "layer_types": None}, 3),
    "recurrent_gemma": ({"block_types": ("recurrent", "attention")}, 3),
    "bamba": ({"attn_layer_indices": [1, 4]}, 4),
    "ernie4_5_moe": ({"moe_layer_start_index": 2, "moe_layer_end_index": 4}, 4),
    "jamba": ({"attn_layer_period": 2, "expert_layer_period": 2}, 4),  # a block of two periods
}
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "diffllama": ({}, 4, r"lambda_init depends on a layer's number \(layer \d would get 0\.\d+ instead of 0\.\d+\)"),
    "gpt2": ({"scale_attn_by_inverse_layer_idx": True, "n_layer": 6}, 4, "scaling depends on a layer's number"),
    "jamba": ({"attn_layer_period": 6, "attn_layer_offset": 5}, 4, "layer 4 would have JambaMamba"),
}


def deep(name: str, settings: dict[str, Any]) -> Any:
    layers = {} if "n_layer" in settings else {"num_hidden_layers": 6}
    return build(name, **{**layers, **settings})


@pytest.mark.parametrize("name", KEPT)
def test_a_rule_for_layers_is_rewritten_for_those_that_stay(name: str, tmp_path: Path) -> None:
    settings, layers = KEPT[name]
    teacher = deep(name, settings)
    student = make_student(teacher, FromTeacher(layers=layers), ROWS).model
    student.save_pretrained(tmp_path)
    again, found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(IDS, use_cache=False).logits, student(IDS, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    assert first_cut(teacher.config, layers, FROM).get_text_config().num_hidden_layers == layers


@pytest.mark.parametrize("name", REFUSED)
def test_a_student_that_would_be_saved_as_another_is_refused_by_run_and_plan(name: str) -> None:
    settings, layers, said = REFUSED[name]
    teacher = deep(name, settings)
    with pytest.raises(ModelError, match=said):
        make_student(teacher, FromTeacher(layers=layers), ROWS)
    with pytest.raises(ModelError, match=said) as error:
        first_cut(teacher.config, layers, FROM)
    assert "model=MODEL" in str(error.value.hint)


def test_only_places_where_the_rule_holds_are_considered() -> None:
    made = config("gemma3_text", num_hidden_layers=6, layer_types=["sliding_attention"] * 5 + ["full_attention"])
    assert possible_starts(made, 2, FROM) == [1, 2, 3]
    assert cut_config(made, [0, 1, 4, 5]).layer_types == ["sliding_attention"] * 3 + ["full_attention"]
    with_rule = config("jamba", num_hidden_layers=8, attn_layer_period=4, attn_layer_offset=1, expert_layer_period=2)
    assert possible_starts(with_rule, 4, FROM) == [1, 2, 3]
    with pytest.raises(ModelError, match="by its configuration"):
        possible_starts(with_rule, 2, FROM)


def test_what_only_shows_in_the_numbers_is_found_with_the_weights() -> None:
    student = build("llama")
    check_rebuilt(student)
    student.model.layers[1].self_attn.register_forward_hook(lambda module, given, out: (out[0] * 1.2, *out[1:]))
    with pytest.raises(ModelError, match=r"its logits are \d+\.\d ?% off"):
        check_rebuilt(student)
