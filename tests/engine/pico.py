"""Tiny random models of many architectures, built on the spot in milliseconds, and rows to train them on.

model = pico("gemma2", seed=0)
rows = pico_rows(12)
"""

from __future__ import annotations

import gc
from typing import Any

import torch
import transformers

torch.set_num_threads(1)  # threads cost more than they give at this size
gc.freeze()  # accelerate collects garbage in every train(): not the half million objects of the imports as well

VOCABULARY = 131
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA_FREE = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
DRY = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
EXPERTS = {"num_experts_per_tok": 2}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 24,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **DRY,
        },
    ),
    "opt": ("OPT", {**GQA_FREE, "ffn_dim": 40, "word_embed_proj_dim": 16, "do_layer_norm_before": True, "dropout": 0.0}),
    "gpt_neox": ("GPTNeoX", {**GQA_FREE, "tie_word_embeddings": False}),
    "llama": ("Llama", {**SMALL, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {**SMALL, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**SMALL, "head_dim": 8, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2", {**SMALL, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3", {**SMALL, "tie_word_embeddings": False}),
    "mixtral": ("Mixtral", {**SMALL, **EXPERTS, "num_local_experts": 4, "tie_word_embeddings": False}),
    "granite": ("Granite", {**SMALL, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
    "cohere": ("Cohere", {**SMALL, "logit_scale": 0.25}),
}
NAMES = list(ARCHITECTURES)
MIXTURES = ("mixtral",)


def pico(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random causal model in eval mode; weights are large enough that its distributions are far from uniform."""
    family, settings = ARCHITECTURES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**{**settings, **changes})
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 and name in MIXTURES else {}  # grouped products know no float64
    model = transformers.AutoModelForCausalLM.from_config(config, **experts)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
            elif parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
        model.get_output_embeddings().weight.mul_(4 / (settings.get("logit_scale", 1) / settings.get("logits_scaling", 1)))
    return model.to(dtype).eval()


def deep(name: str, **changes: Any) -> Any:
    """A pico model of six layers."""
    return pico(name, **({"n_layer": 6} if name == "gpt2" else {"num_hidden_layers": 6}), **changes)


def pico_rows(
    count: int, *, seed: int = 0, shortest: int = 4, longest: int = 20, vocabulary: int = VOCABULARY
) -> list[dict[str, list[int]]]:
    """Rows of random tokens; the first third of each carries no loss."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        prompt = length // 3
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def arguments(folder: Any, **changes: Any) -> transformers.TrainingArguments:
    """Quiet arguments on the CPU: plain SGD, nothing saved, rows in their order."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }
    return transformers.TrainingArguments(**{**settings, **changes})


def losses(trainer: Any) -> list[float]:
    """The logged loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def model_gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a backward pass leaves at each parameter."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The root mean square of the differences of all weights.

    Adam moves a weight with hardly any gradient as far as the others, in the direction of a rounding error, and processors round in
    different orders: the largest difference after a training in float32 says which processor it was.
    """
    assert one.keys() == other.keys()
    return float(torch.cat([(tensor.double() - other[name].double()).flatten() for name, tensor in one.items()]).square().mean().sqrt())


def assert_same_weights(one: Any, other: Any, *, tolerance: float) -> None:
    """Every parameter equal up to `tolerance`; names the one that is not."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


class Rows(torch.utils.data.Dataset):
    """A list as a dataset."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]
