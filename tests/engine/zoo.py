"""Tiny random models of many architectures, each as its family builds it: mixtures, state spaces, models that also see pictures.

folder = save("qwen3_moe", tmp_path)          # config.json and safetensors, as save_pretrained writes them

pico.py has the eleven that most tests use; these are for the sweep over everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from pico import ARCHITECTURES as PICO
from pico import GQA_FREE, SMALL

WIDE = {**SMALL, "hidden_size": 32, "intermediate_size": 48}
DRY_GPT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
MOE = {**WIDE, **UNTIED, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
}
STATE = {"vocab_size": 131, "hidden_size": 32, "num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_chunk_size": 8}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
TEXT = {**WIDE, "head_dim": 8}

TEXT_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **PICO,
    "mistral": ("Mistral", {**WIDE, **UNTIED, "sliding_window": 8}),
    "ministral3": ("Ministral3", {**WIDE, **UNTIED, "head_dim": 8}),
    "gemma": ("Gemma", {**WIDE, "head_dim": 8}),
    "gemma3_text": ("Gemma3Text", {**WIDE, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma4_text": (  # its layers differ, which its configuration says layer by layer
        "Gemma4Text",
        {
            **WIDE,
            "head_dim": 8,
            "global_head_dim": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "sliding_window": 8,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 131,
        },
    ),
    "phi": ("Phi", {**WIDE, **UNTIED, "partial_rotary_factor": 0.5}),
    "gpt_neo": (
        "GPTNeo",
        {
            "vocab_size": 131,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gptj": (
        "GPTJ",
        {
            "vocab_size": 131,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "rotary_dim": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **DRY_GPT,
        },
    ),
    "codegen": (
        "CodeGen",
        {
            "vocab_size": 131,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "rotary_dim": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **DRY_GPT,
        },
    ),
    "gpt_bigcode": (
        "GPTBigCode",
        {"vocab_size": 131, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2, **DRY_GPT},
    ),
    "bloom": ("Bloom", {"vocab_size": 131, "hidden_size": 32, "n_layer": 3, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "falcon": ("Falcon", {**GQA_FREE, "hidden_size": 32, "new_decoder_architecture": False, "multi_query": True}),
    "mpt": ("Mpt", {"vocab_size": 131, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 128, "expansion_ratio": 2}),
    "stablelm": ("StableLm", {**WIDE, **UNTIED}),
    "starcoder2": ("Starcoder2", {**WIDE, "residual_dropout": 0.0, "embedding_dropout": 0.0}),
    "olmo": ("Olmo", {**WIDE, **UNTIED}),
    "olmo2": ("Olmo2", {**WIDE, **UNTIED}),
    "olmo3": ("Olmo3", {**WIDE, **UNTIED, "sliding_window": 8}),
    "cohere2": ("Cohere2", {**WIDE, "logit_scale": 0.25, "sliding_window": 8}),
    "nemotron": ("Nemotron", {**WIDE, **UNTIED, "head_dim": 8}),
    "persimmon": ("Persimmon", {**GQA_FREE, **UNTIED, "hidden_size": 32, "intermediate_size": 48, "hidden_dropout": 0.0}),
    "xglm": (
        "XGLM",
        {
            "vocab_size": 131,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 3,
            "attention_heads": 4,
            "max_position_embeddings": 128,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "biogpt": ("BioGpt", {**GQA_FREE, "hidden_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "glm": ("Glm", {**TEXT, **UNTIED}),
    "glm4": ("Glm4", {**TEXT, **UNTIED}),
    "smollm3": ("SmolLM3", {**WIDE, "no_rope_layer_interval": 2}),
    "helium": ("Helium", {**TEXT, **UNTIED}),
    "diffllama": ("DiffLlama", {**WIDE, **UNTIED}),
    "exaone4": ("Exaone4", {**WIDE, "sliding_window": 8, "sliding_window_pattern": 2}),
    "ernie4_5": ("Ernie4_5", {**TEXT}),
    "arcee": ("Arcee", {**WIDE, **UNTIED}),
    "seed_oss": ("SeedOss", {**TEXT, **UNTIED}),
    "apertus": ("Apertus", {**WIDE, **UNTIED}),
    "hunyuan_dense": ("HunYuanDenseV1", {**TEXT}),
    "bitnet": ("BitNet", {**WIDE}),
    "minicpm3": ("MiniCPM3", {**WIDE, **LATENT, "head_dim": 8}),
    "lfm2": ("Lfm2", {**WIDE, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}),
}

MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_moe": ("Qwen2Moe", {**MOE, "num_experts": 4, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("Qwen3Moe", {**MOE, "num_experts": 4, "head_dim": 8, "mlp_only_layers": [0]}),
    "olmoe": ("Olmoe", {**MOE, "num_experts": 4}),
    "granitemoe": ("GraniteMoe", {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v2": ("DeepseekV2", {**MOE, **LATENT, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "deepseek_v3": ("DeepseekV3", {**MOE, **LATENT, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "glm4_moe": (
        "Glm4Moe",
        {**MOE, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 8},
    ),
    "ernie4_5_moe": ("Ernie4_5_Moe", {**WIDE, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1}),
    "gpt_oss": ("GptOss", {**TEXT, **UNTIED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
    "llama4_text": (
        "Llama4Text",
        {
            **TEXT,
            **UNTIED,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 64,
        },
    ),
    "phimoe": ("Phimoe", {**WIDE, **UNTIED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "dbrx": (
        "Dbrx",
        {
            "vocab_size": 131,
            "d_model": 32,
            "n_layers": 3,
            "n_heads": 4,
            "max_seq_len": 128,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
        },
    ),
    "jetmoe": (
        "JetMoe",
        {**STATE, "num_key_value_heads": 2, "kv_channels": 8, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "minimax": (
        "MiniMax",
        {
            **TEXT,
            **UNTIED,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["full_attention", "linear_attention", "full_attention"],
            "block_size": 8,
        },
    ),
}

STATE_SPACES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {**STATE, "state_size": 4}),
    "mamba2": ("Mamba2", {**STATE, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}),
    "falcon_mamba": ("FalconMamba", {**STATE, "state_size": 4}),
    "rwkv": ("Rwkv", {"vocab_size": 131, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 3, "context_length": 64}),
    "recurrent_gemma": (
        "RecurrentGemma",
        {
            **WIDE,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": 16,
            "block_types": ("recurrent", "recurrent", "attention"),
        },
    ),
    "jamba": (
        "Jamba",
        {
            **WIDE,
            **UNTIED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 4,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": ("Bamba", {**WIDE, **UNTIED, **MAMBA2, "attn_layer_indices": [1]}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {
            **WIDE,
            **MAMBA2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 16,
            "layer_types": ["mamba", "attention", "mamba"],
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            **STATE,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 48,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "n_mamba_heads": 8,
            "chunk_size": 8,
            "num_mem_blocks": 1,
            "use_mem_rope": False,
            "adapter_rank": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        },
    ),
    "falcon_h1": ("FalconH1", {**WIDE, **UNTIED, **MAMBA2, "head_dim": 8, "mamba_d_ssm": 64}),
    "qwen3_next": (
        "Qwen3Next",
        {
            **MOE,
            "num_experts": 4,
            "head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        },
    ),
}

SEEING: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3",
        {
            "text_config": {**TEXT, "sliding_window": 8, "query_pre_attn_scalar": 8},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 130,
            "boi_token_index": 128,
            "eoi_token_index": 129,
        },
    ),
    "llava": (
        "Llava",
        {
            "text_config": {"model_type": "llama", **WIDE, **UNTIED},
            "vision_config": {"model_type": "clip_vision_model", **VISION},
            "image_token_index": 130,
        },
    ),
    "mistral3": (
        "Mistral3",
        {
            "text_config": {"model_type": "mistral", **TEXT, **UNTIED},
            "vision_config": {"model_type": "pixtral", **VISION, "head_dim": 8},
            "image_token_index": 130,
        },
    ),
    "qwen2_vl": (
        "Qwen2VL",
        {
            "text_config": {**WIDE, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}},
            "vision_config": {"embed_dim": 16, "hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2},
            "image_token_id": 130,
            "video_token_id": 129,
            "vision_start_token_id": 127,
            "vision_end_token_id": 128,
        },
    ),
    "idefics3": (
        "Idefics3",
        {"text_config": {"model_type": "llama", **WIDE, **UNTIED}, "vision_config": VISION, "image_token_id": 130, "scale_factor": 1},
    ),
}

# Close to others in the list: the sweep trains those.
# fmt: off
ALIKE = [
    "mistral", "ministral3", "gemma", "codegen", "gpt_bigcode", "olmo", "olmo3", "cohere2", "biogpt", "glm", "helium",
    "ernie4_5", "arcee", "seed_oss", "apertus", "hunyuan_dense", "olmoe", "glm4_moe", "phimoe", "falcon_mamba", "bamba",
    "idefics3", "qwen2", "gemma2", "cohere", "granite",
]
# fmt: on
ALL = {**TEXT_MODELS, **MIXTURES, **STATE_SPACES, **SEEING}


def config(name: str, **changes: Any) -> Any:
    family, settings = ALL[name]
    return getattr(transformers, f"{family}Config")(**{**settings, **changes})


def build(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model in eval mode, with weights large enough that its logits differ from token to token."""
    made = config(name, **changes)
    torch.manual_seed(seed)
    kind = transformers.AutoModelForImageTextToText if name in SEEING else transformers.AutoModelForCausalLM
    model = kind.from_config(made)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1 and "conv" not in key and "A_log" not in key:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save(name: str, folder: Path, **changes: Any) -> Path:
    build(name, **changes).save_pretrained(folder)
    return folder
