"""A model that is read from a GGUF file computes what was written into it: all that transformers does not read is set, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pico_exports import FAMILIES, model_of, tokenizer_of
from transformers import AutoModelForCausalLM

from finetune.errors import ModelError
from finetune.export.gguf_tokenizer import tokenizer_header
from finetune.export.gguf_types import KINDS
from finetune.export.gguf_writer import plan, write
from finetune.export.prompt_format import PromptFormat
from finetune.models.gguf_architectures import architecture_of, is_tied, tensors
from finetune.models.gguf_file import read_header
from finetune.models.gguf_model import to_folder
from finetune.run_folder import RunFolder


def scaled(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}}


LONG = {"long_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 3.0], "short_factor": [1.0] * 6, "original_max_position_embeddings": 128}
TWO_WAYS = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
}
# Beside what we state, or instead of it (None: not stated), the converter of llama.cpp, of today or of earlier years.
SIZES: dict[str, Any] = {"attention.key_length": None, "attention.value_length": None, "vocab_size": None}
NO_ROTATION = {"rope.dimension_count": None, "rope.freq_base": None}
STATED: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "rope.freq_base": None, "rope.scaling.type": "none"},
    "qwen2": {**SIZES, "rope.dimension_count": None},
    "qwen3": {"rope.dimension_count": None},
    "gemma2": {**NO_ROTATION, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "gemma3": {**NO_ROTATION, "rope.freq_base_swa": None},
    "phi3": {**SIZES, "attention.sliding_window": 0, "rope.scaling.original_context_length": 4096},
    "yarn": {"rope.scaling.finetuned": True, "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0},
    "long": {**SIZES, "attention.sliding_window": 300, "rope.scaling.type": "longrope"},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in FAMILIES if name != "smollm3"} | {
    "llama 3": (
        "llama",
        {**scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)},
    ),
    "linear": ("llama", scaled("linear", factor=4.0)),
    "yarn": ("qwen2", scaled("yarn", factor=4.0, original_max_position_embeddings=128)),
    "wide heads": ("qwen3", {"head_dim": 32}),
    "caps": ("gemma2", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0, "sliding_window": 64}),
    "two ways": ("gemma3", {"rope_parameters": TWO_WAYS, "sliding_window": 64}),
    "long": ("phi3", {**scaled("longrope", partial_rotary_factor=0.75, **LONG), "original_max_position_embeddings": 128}),
}


def written(name: str, file: Path, *, more: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A model whose weights 16 bits hold, and its file."""
    tokenizer = tokenizer_of(name)
    model = model_of(name, len(tokenizer), **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    config = model.config.get_text_config(decoder=True)
    known = architecture_of(config, "m")
    stated = known.facts(config)
    shapes = ((place, tuple(values.shape)) for place, values in tensors(model, known))
    planned = plan(shapes, KINDS["f16"], layers=stated["block_count"], tied=is_tied(model))
    words = tokenizer_header(PromptFormat.of(RunFolder(file.parent), tokenizer), "m", vocabulary=config.vocab_size, model="m").facts
    stated |= more or {}
    facts = {"general.type": "model"} | {f"{known.name}.{key}": value for key, value in stated.items() if value is not None} | words
    write(file, known.name, facts, planned, tensors(model, known), lambda *_: None)
    return model


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_is_read_computes_what_was_written(case: str, tmp_path: Path) -> None:
    name, changes = CASES[case]
    model = written(name, tmp_path / "m.gguf", more=STATED.get(case), **changes)
    to_folder(read_header(tmp_path / "m.gguf"), tmp_path / "read")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "read", dtype=torch.float32).eval()
    ids = torch.randint(3, model.config.vocab_size, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        meant, found = (each(ids).logits.log_softmax(-1) for each in (model, read))
    torch.testing.assert_close(found, meant, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("qwen3", {"rope.scaling.type": "dynamic", "rope.scaling.factor": 2.0}, "rope.scaling"),
        ("qwen2", {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_beta_fast": 8.0}, "yarn_beta_fast 8.0"),
        ("llama", {"attention.value_length": 8}, "attention.value_length 8"),
    ],
)
def test_what_a_file_states_and_nobody_reads_is_refused(name: str, more: dict[str, Any], words: str, tmp_path: Path) -> None:
    written(name, tmp_path / "m.gguf", more=more)
    with pytest.raises(ModelError) as refused:
        to_folder(read_header(tmp_path / "m.gguf"), tmp_path / "read")
    assert words in refused.value.message
    assert "safetensors" in str(refused.value.hint)
    assert not (tmp_path / "read").exists()


def test_weights_that_only_the_file_has_or_only_the_model_are_refused(tmp_path: Path) -> None:
    """Such as the experts of Mixtral, which calls itself a Llama: transformers would make up its layers."""
    file = tmp_path / "m.gguf"
    written("llama", file, attention_bias=True)
    with pytest.raises(ModelError, match=r"weights blk\.0\.attn_q\.bias, which transformers does not read"):
        to_folder(read_header(file), tmp_path / "read")
    file.write_bytes(file.read_bytes().replace(b"ffn_gate.weight", b"ffn_gatf.weight"))
    with pytest.raises(ModelError, match=r"no weights for model\.layers\.0\.mlp\.gate_proj\.weight"):
        to_folder(read_header(file), tmp_path / "read")
    assert not (tmp_path / "read").exists()


def test_positions_that_are_scaled_otherwise_than_those_of_llama_3_are_refused(tmp_path: Path) -> None:
    changes = scaled("llama3", factor=8.0, low_freq_factor=2.0, high_freq_factor=4.0, original_max_position_embeddings=1024)
    written("llama", tmp_path / "m.gguf", **changes)
    with pytest.raises(ModelError, match="rope_freqs"):
        to_folder(read_header(tmp_path / "m.gguf"), tmp_path / "read")
