"""Architectures that llama.cpp runs as we do: their names there, what a file states about them, and their tensors as it wants them.

    known = architecture_of(model.config, "my_model")        # raises ModelError, with the list
    known.facts(model.config)["attention.head_count"]        # 9
    for name, values in tensors(model, known): ...           # "blk.0.attn_q.weight", [576, 576]

Some numbers llama.cpp does not read but knows: which layers of Gemma see a window only, which of SmolLM3 rotate nothing. A model that has
others, such as a student with layers left out, is refused here; the gate could not see it in short prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError
from finetune.models.layer_configs import head_width

if TYPE_CHECKING:
    from torch import Tensor

Facts = dict[str, Any]
NEXT = "Use it with transformers, vLLM or MLX, which load the folder as it is."


@dataclass(frozen=True)
class Architecture:
    """`name` is llama.cpp's. `facts` are keys of the file's header without the architecture's name in front of them.

    `pairs`: it rotates neighbouring values of a head, where transformers rotates its halves. `one_more`: its norms multiply by 1 + weight
    in transformers. `turned`: its layers are stored [in, out]. `odd` says what llama.cpp would compute differently, or nothing.
    """

    name: str
    facts: Callable[[Any], Facts]
    pairs: bool = False
    one_more: bool = False
    turned: bool = False
    odd: Callable[[Any], str | None] = lambda config: None


def architecture_of(config: Any, model: str) -> Architecture:
    """Raises ModelError for an architecture that is not in the list, or numbers of it that llama.cpp would take for others."""
    text = config.get_text_config(decoder=True)
    known = KNOWN.get(text.model_type)
    if known is None:
        raise ModelError(f"{model} is a {text.model_type}, which cannot be exported to GGUF; these can: {', '.join(NAMES)}.", hint=NEXT)
    if (odd := known.odd(text) or _odd_rope(text, known)) is not None:
        raise ModelError(f"{model} cannot be exported to GGUF: {odd}, and llama.cpp assumes otherwise.", hint=NEXT)
    return known


def long_texts(config: Any, stated: Facts) -> list[str]:
    """What people should know of texts that are longer than those that both compute alike."""
    notes, window = [], stated["context_length"]
    if window < (most := getattr(config, "max_position_embeddings", 0)):
        notes.append(f"Its context is {window:,} tokens instead of {most:,}: llama.cpp lacks the sliding window that longer texts need.")
    original = stated.get("rope.scaling.original_context_length", window)
    if "rope.scaling.attn_factor" in stated and original < window:
        notes.append(f"With a context of more than {original:,} tokens, llama.cpp reads short texts too as the model reads long ones.")
    return notes


def places(model: Any, known: Architecture) -> Iterator[tuple[str, str, Tensor]]:
    """Every weight of a model as it is: its name in the file, its name here, its values; raises ModelError for one without a place."""
    import gguf

    config = model.config.get_text_config(decoder=True)
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == known.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tied = is_tied(model)
    for name, held in model.state_dict().items():
        if (tied and name == "lm_head.weight") or "vision_tower" in name or "multi_modal_projector" in name:
            continue
        place = names.get_name(name.replace("language_model.", ""), try_suffixes=(".weight", ".bias"))
        if place is None:
            raise ModelError(f"llama.cpp has no place for the weights {name} of a {known.name}.", hint=NEXT)
        yield place, name, held.detach()


def tensors(model: Any, known: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file with its name there, in torch's order of dimensions; raises ModelError for one without a place."""
    config = model.config.get_text_config(decoder=True)
    for place, name, values in places(model, known):
        yield place, _as_stored(values, name, known, config)
    yield from rotations(model, config)


def take(model: Any, known: Architecture, stored: Callable[[str, tuple[int, ...]], Tensor]) -> Iterator[tuple[str, float]]:
    """Give the model each weight as the file has it; `stored` takes a name there and its shape, and returns its values.

    Yields that name, and how far the weight is from what it was, as a share of it (root mean square).
    """
    config = model.config.get_text_config(decoder=True)
    for place, name, held in places(model, known):
        values = _as_held(stored(place, tuple(_as_stored(held, name, known, config).shape)), name, known, config)
        yield place, float((values - held).norm() / held.norm().clamp_min(1e-30))
        held.copy_(values)


def _as_stored(values: Tensor, name: str, known: Architecture, config: Any) -> Tensor:
    if _is_turned(values, name, known):
        values = values.t()
    if _is_one_more(name, known):
        values = values + 1
    return interleaved(values, heads) if (heads := _heads_in_pairs(name, known, config)) else values


def _as_held(values: Tensor, name: str, known: Architecture, config: Any) -> Tensor:
    """The other way round."""
    if heads := _heads_in_pairs(name, known, config):
        values = values.reshape(heads, -1, 2, *values.shape[1:]).transpose(1, 2).reshape(values.shape)
    if _is_one_more(name, known):
        values = values - 1
    return values.t() if _is_turned(values, name, known) else values


def _is_turned(values: Tensor, name: str, known: Architecture) -> bool:
    return known.turned and values.dim() == 2 and ".h." in f".{name}"


def _is_one_more(name: str, known: Architecture) -> bool:
    return known.one_more and name.endswith("norm.weight")


def _heads_in_pairs(name: str, known: Architecture, config: Any) -> int:
    if not known.pairs or (".q_proj." not in name and ".k_proj." not in name):
        return 0
    return int(config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)


def interleaved(values: Tensor, heads: int) -> Tensor:
    """Rows of q or k [heads * size, ...], value i of the first half of a head beside value i of the second."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).transpose(1, 2).reshape(values.shape)


def is_tied(model: Any) -> bool:
    """Whether the embeddings are the head too, so that the file has them once."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


# What the headers state.


def _gpt2(config: Any) -> Facts:
    return {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
    }


def _usual(config: Any) -> Facts:
    size, rope = head_width(config), _rope(config)
    facts = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    if rope.get("rope_type") in ("linear", "yarn"):
        facts |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope.get("rope_type") in ("yarn", "longrope"):
        facts["rope.scaling.original_context_length"] = _original_length(config, rope)
    return facts


def _in_window(config: Any) -> Facts:
    """llama.cpp sees everything, so a text may not be longer than the window in which both agree."""
    facts = _usual(config)
    return facts | {"context_length": min(facts["context_length"], config.sliding_window or facts["context_length"])}


def _gemma2(config: Any) -> Facts:
    return _usual(config) | {
        "attn_logit_softcapping": float(config.attn_logit_softcapping),
        "final_logit_softcapping": float(config.final_logit_softcapping),
        "attention.sliding_window": config.sliding_window,
    }


def _gemma3(config: Any) -> Facts:
    near = config.rope_parameters["sliding_attention"]["rope_theta"]
    facts = _usual(config) | {"attention.sliding_window": config.sliding_window, "rope.freq_base_swa": float(near)}
    return facts | ({"final_logit_softcapping": float(config.final_logit_softcapping)} if config.final_logit_softcapping else {})


def _phi3(config: Any) -> Facts:
    facts, rope = _in_window(config), _rope(config)
    if rope.get("rope_type") == "longrope":
        from math import log, sqrt

        original = _original_length(config, rope)
        longer = config.max_position_embeddings / original
        facts["rope.scaling.attn_factor"] = float(
            rope.get("attention_factor") or (sqrt(1 + log(longer) / log(original)) if longer > 1 else 1)
        )
    return facts


# What llama.cpp would compute differently.


def query_scale(config: Any) -> int:
    """By the root of which Gemma divides queries in llama.cpp: a head's size, and in the deepest model the width for each head."""
    if config.num_hidden_layers == {"gemma2": 46, "gemma3_text": 62}[config.model_type]:
        return int(config.hidden_size // config.num_attention_heads)
    return int(config.head_dim)


def _odd_gemma(every: int) -> Callable[[Any], str | None]:
    """Each `every`-th layer sees everything."""

    def odd(config: Any) -> str | None:
        expected = ["sliding_attention" if (number + 1) % every else "full_attention" for number in range(config.num_hidden_layers)]
        if list(config.layer_types) != expected:
            return f"its layers with and without a window do not alternate as those of {config.model_type} do (some may be left out)"
        caps = (config.attn_logit_softcapping, config.final_logit_softcapping) if config.model_type == "gemma2" else ()
        if not all(caps):
            return "its attention or its logits have no soft cap"
        if config.query_pre_attn_scalar != query_scale(config):
            return f"its queries are scaled by {config.query_pre_attn_scalar}, not by the size of a head, {query_scale(config)}"
        return None

    return odd


def _odd_smollm3(config: Any) -> str | None:
    expected = [int((number + 1) % 4 > 0) for number in range(config.num_hidden_layers)]
    if list(config.no_rope_layers) != expected:
        return "not exactly every fourth of its layers is without rotation (some may be left out)"
    return _odd_window(config)


def _odd_window(config: Any) -> str | None:
    windowed = any(each == "sliding_attention" for each in getattr(config, "layer_types", None) or ())
    return "some of its layers see a window only" if windowed else None


def _odd_gpt2(config: Any) -> str | None:
    if config.scale_attn_by_inverse_layer_idx or config.activation_function != "gelu_new":
        return "its attention or its activation function is not that of GPT-2"
    return None


def _odd_rope(config: Any, known: Architecture) -> str | None:
    if known.name == "gpt2":
        return None
    kind = _rope(config).get("rope_type", "default")
    fine = (
        {"default", "linear", "yarn"} | ({"llama3"} if known.name == "llama" else set()) | ({"longrope"} if known.name == "phi3" else set())
    )
    if kind == "yarn" and (other := _odd_yarn(_rope(config))):
        return f"its positions are scaled by yarn with another {other}"
    return None if kind in fine else f"its positions are scaled by {kind}"


def _odd_yarn(rope: dict[str, Any]) -> str | None:
    """What is not as usual of a scaling that llama.cpp knows by its factor alone; short texts hardly show it."""
    usual = {"attention_factor": None, "beta_fast": 32, "beta_slow": 1, "mscale": None, "mscale_all_dim": None, "truncate": True}
    return next((name for name, value in usual.items() if rope.get(name) not in (None, value)), None)


KNOWN: dict[str, Architecture] = {
    "llama": Architecture("llama", _usual, pairs=True),
    "mistral": Architecture("llama", _in_window, pairs=True),
    "qwen2": Architecture("qwen2", _usual, odd=_odd_window),
    "qwen3": Architecture("qwen3", _usual, odd=_odd_window),
    "gemma2": Architecture("gemma2", _gemma2, one_more=True, odd=_odd_gemma(2)),
    "gemma3_text": Architecture("gemma3", _gemma3, one_more=True, odd=_odd_gemma(6)),
    "gpt2": Architecture("gpt2", _gpt2, turned=True, odd=_odd_gpt2),
    "phi3": Architecture("phi3", _phi3),
    "smollm3": Architecture("smollm3", _usual, pairs=True, odd=_odd_smollm3),
}
NAMES = [name.removesuffix("_text") for name in KNOWN]


def _rope(config: Any) -> dict[str, Any]:
    """How positions are rotated; of a model with two ways, that of the layers that see everything."""
    given: dict[str, Any] = config.rope_parameters
    everything: dict[str, Any] = given.get("full_attention", given)
    return everything


def _original_length(config: Any, rope: dict[str, Any]) -> int:
    found = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(found or config.max_position_embeddings)


def rotations(model: Any, config: Any) -> Iterator[tuple[str, Tensor]]:
    """By how much frequencies are divided where that differs between them: Llama 3's and Phi's long contexts."""
    import torch

    rope = getattr(config, "rope_parameters", None) and _rope(config)
    if rope and rope.get("rope_type") == "llama3":
        size = head_width(config)
        plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
        yield "rope_freqs.weight", plain / model.base_model.rotary_emb.inv_freq.float().cpu()
    if rope and rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            yield f"rope_factors_{length}.weight", torch.tensor(rope[f"{length}_factor"], dtype=torch.float32)
