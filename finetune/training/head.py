"""Splits a causal language model: its backbone gives the last hidden states, its head turns those into logits.

    head = head_of(model)
    hidden = hidden_states(model, input_ids)          # [batch, length, d], after the final norm
    logits = head.logits(hidden)                      # what model(input_ids).logits would be

This project's losses call the two halves separately, so that logits exist only for a few supervised tokens at a time. peft's
adapters, compiled models and distributed wrappers are unwrapped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.hardware.matmul import learned_linear
from finetune.models.facts import CONTEXT
from finetune.models.kind import CHOOSE, SEES_LATER

PROBE_LENGTH = 12
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # of Gemma, RecurrentGemma, xLSTM


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (hidden @ weight.T + bias)), where cap(z) = softcap * tanh(z / softcap) if there is a soft cap.

    `weight` is [vocabulary, d]; `bias` is [vocabulary] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        return self.weight.shape[0]

    @property
    def trains(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def first(self, vocabulary: int) -> Head:
        """The same head over the first `vocabulary` ids; gradients still reach the whole weight."""
        return self if vocabulary == self.vocabulary else self.each(lambda tensor: tensor[:vocabulary])

    def detach(self) -> Head:
        return self.each(torch.Tensor.detach)

    def each(self, change: Callable[[Tensor], Tensor]) -> Head:
        """The same head with `change` applied to its tensors."""
        return replace(self, weight=change(self.weight), bias=None if self.bias is None else change(self.bias))

    def logits(self, hidden: Tensor) -> Tensor:
        """Plain logits [..., vocabulary]; for checks and short inputs; the losses never call it."""
        logits = self.scale * learned_linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def causal_lm(model: nn.Module) -> Any:
    """The plain causal model inside wrappers of torch.compile, DistributedDataParallel and peft."""
    inner: Any = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif isinstance(inner, nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
            if any(config.is_prompt_learning for config in inner.peft_config.values()):
                raise ModelError(
                    "Prompt-learning adapters are not supported.",
                    hint="Use LoRA, AdaLoRA or full training.",
                )
            inner = inner.get_base_model()
        else:
            return inner


def backbone_of(model: nn.Module) -> nn.Module:
    """Everything of a causal model below its head; called with input_ids it returns the last normed hidden state."""
    inner = causal_lm(model)
    backbone = inner.base_model if getattr(inner, "base_model", inner) is not inner else inner.get_decoder()
    if backbone is inner:  # Llama 4's text model has its backbone under another name than its class says
        backbone = getattr(inner, "model", inner)
    return cast(nn.Module, backbone)


def hidden_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
    """Last hidden state [batch, length, d] after the final norm; the model's own head is not called."""
    more = {} if position_ids is None else {"position_ids": position_ids}
    outputs = backbone_of(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more)
    return cast(Tensor, outputs.last_hidden_state)


@contextmanager
def nothing_packed() -> Iterator[None]:
    """For a batch in which no row is several rows one after the other.

    In every forward pass transformers looks whether positions begin again within a row, and a GPU has to be waited for to know.
    """
    _blind.enter()
    try:
        yield
    finally:
        _blind.leave()


class _Blind:
    """Does not let transformers look; it looks again when the last of several threads has left."""

    NAME = "find_packed_sequence_indices"

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.looks: Any = None

    def enter(self) -> None:
        from transformers import masking_utils  # which every model brings, and this module need not

        with self.lock:
            if not self.inside:
                self.looks = getattr(masking_utils, self.NAME, None)
                if self.looks is not None:
                    setattr(masking_utils, self.NAME, lambda position_ids: None)
            self.inside += 1

    def leave(self) -> None:
        from transformers import masking_utils

        with self.lock:
            self.inside -= 1
            if not self.inside and self.looks is not None:
                setattr(masking_utils, self.NAME, self.looks)


_blind = _Blind()


def check_causal(model: nn.Module) -> None:
    """Raises ModelError for a model that does not continue text: without a language-model head, or with an encoder."""
    inner = causal_lm(model)
    name, config = type(inner).__name__, getattr(inner, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} has an encoder and a decoder; it is not a causal language model.", hint=CHOOSE)
    if config is None or not hasattr(inner, "get_output_embeddings") or inner.get_output_embeddings() is None:
        raise ModelError(f"{name} has no language-model head.", hint=CHOOSE)


def token_ids(model: nn.Module, ids: list[int]) -> Tensor:
    """One row of token ids [1, length], on the device where the model takes them."""
    return torch.tensor([ids], device=causal_lm(model).get_input_embeddings().weight.device)


def head_of(model: nn.Module) -> Head:
    """The head with its bias, scale and soft cap; raises ModelError if it is not a plain (possibly adapted) linear layer.

    The scale and the cap are read from the config (`logit_scale` of Cohere, `logits_scaling` of Granite and MiniCPM3,
    `lm_head_multiplier` of Falcon-H1, and SOFT_CAPS); `check_head` verifies this on the model.
    """
    inner = causal_lm(model)
    check_causal(model)
    module = inner.get_output_embeddings()
    weight, bias = _effective(module)
    if not weight.is_floating_point() or weight.dim() != 2:
        raise ModelError(
            "The head of this model is quantised, so this project's losses cannot use it.",
            hint="Load it with the head in 16 bit (llm_int8_skip_modules=['lm_head']).",
        )
    config = inner.config.get_text_config() if hasattr(inner.config, "get_text_config") else inner.config
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):
        scale *= float(getattr(config, name, None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    cap = next((found for name in SOFT_CAPS if (found := getattr(config, name, None))), None)
    return Head(weight, bias, scale, None if cap is None else float(cap))


def _effective(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the forward pass sees them, through peft's modules_to_save and LoRA layers."""
    if hasattr(module, "modules_to_save"):
        active = [] if module.disable_adapters else [name for name in module.active_adapters if name in module.modules_to_save]
        return _effective(module.modules_to_save[active[0]] if active else module.original_module)
    if hasattr(module, "token_adapter"):  # peft's: some rows learn
        inner = module.token_adapter
        return inner.base_layer.weight if inner.disable_adapters or inner.merged else module.weight, None
    if hasattr(module, "base_layer"):
        weight, bias = _effective(module.base_layer)
        if not module.disable_adapters and not module.merged:
            if not hasattr(module, "lora_A"):
                raise ModelError(
                    f"The output head has an adapter that is not added to its weights ({type(module).__module__}).",
                    hint="Leave the head out: --set method.target_modules=auto",
                )
            for name in module.active_adapters:
                if name in module.lora_A:
                    weight = weight + module.get_delta_weight(name).to(weight.dtype)
        return weight, bias
    return module.weight, getattr(module, "bias", None)


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Compare backbone and head with the model's own logits on a few tokens; raises ModelError if they differ.

    Catches an architecture that does something between the two that `head_of` does not know about, and one that sees later tokens: it
    would learn to repeat what it is to predict.
    """
    check_causal(model)
    inner, ids, half = causal_lm(model), _probe(model), PROBE_LENGTH // 2
    ids = torch.cat([ids, ids])
    ids[1, half:] = ids[0, :half]
    with _evaluating(inner):
        own = inner(input_ids=ids, use_cache=False).logits
        check_finite(own, inner)
        states = hidden_states(model, ids)
        ours = head_of(model).logits(states)
    if _mostly_apart(*states[:, :half]):
        raise ModelError(f"{type(inner).__name__} cannot be used: {SEES_LATER}.", hint=CHOOSE)
    if own.shape != ours.shape or not _close(own, ours):
        raise ModelError(
            f"The logits of {type(inner).__name__} are not its last hidden state times its head, which this project's losses assume.",
            hint="Choose another architecture, or report this one.",
        )


def check_finite(logits: Tensor, model: nn.Module) -> None:
    """Raises ModelError for logits of a model that are no numbers: damaged weights, or float16, which ends at 65,504."""
    if not bool(logits.isfinite().all()):
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        hint = (
            "Use --dtype bfloat16 or float32."
            if dtype == "float16"
            else "Its weights are damaged: download them again, or choose another model."
        )
        raise ModelError(f"{type(model).__name__} gives logits that are not finite in {dtype}.", hint=hint)


@torch.no_grad()
def needs_mask(model: nn.Module) -> bool:
    """Whether padding on the right changes this model's states of the real tokens when no attention mask is passed.

    Causal attention cannot see what comes later, so this is False for nearly every architecture; it is measured, not assumed.
    """
    inner, ids = causal_lm(model), _probe(model)
    short = ids[:, : PROBE_LENGTH // 2]
    with _evaluating(inner):
        padded, alone = hidden_states(model, ids)[:, : short.shape[1]], hidden_states(model, short)
    return not _close(alone, padded)


def padding_id(tokenizer: Any, *models: Any) -> int:
    """The id that fills short rows: the tokenizer's, the first model's, or 0, whichever has an embedding in every model.

    No loss, no answer and no real token ever depends on it. A tokenizer may have one that is beyond the model's embeddings.
    """
    inner = [causal_lm(model) for model in models if model is not None]
    known = [getattr(owner, "pad_token_id", None) for owner in (tokenizer, *(model.config for model in inner[:1]))]
    rows = min((model.get_input_embeddings().weight.shape[0] for model in inner), default=1)
    return next((int(found) for found in known if found is not None and 0 <= found < rows), 0)


def _probe(model: nn.Module) -> Tensor:
    """A few different valid token ids [1, PROBE_LENGTH]."""
    embeddings: Tensor = causal_lm(model).get_input_embeddings().weight
    return torch.arange(PROBE_LENGTH, device=embeddings.device)[None] * 7 % embeddings.shape[0]


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of another kernel: a share of the largest value, wider for 16-bit numbers."""
    tolerance = 1e-3 if one.dtype in (torch.float32, torch.float64) else 0.05
    return bool((one.float() - other.float()).abs().max() <= tolerance * one.float().abs().max())


def _mostly_apart(one: Tensor, other: Tensor) -> bool:
    """Whether most of the states [length, d] are another: rounding can send a token or two to other experts."""
    tolerance = 1e-4 if one.dtype in (torch.float32, torch.float64) else 0.05
    apart = (one.float() - other.float()).abs().amax(-1)
    return bool((apart > tolerance * one.float().abs().max()).float().mean() > 0.5)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off for a moment."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def context_length(model: Any) -> int:
    """The most tokens that a model can read at once; a very large number if its configuration does not state it."""
    config = model.config.get_text_config()
    return next((int(found) for name in CONTEXT if (found := getattr(config, name, None))), 1 << 20)


def fixed_positions(model: nn.Module) -> int | None:
    """The most tokens of a row where there is a table of positions, as in GPT-2, GPT-J and OPT; None where positions have no end."""
    inner = causal_lm(model)
    context, tokens = context_length(inner), set(inner.get_input_embeddings().modules())
    reads_text = inner.get_decoder() if hasattr(inner, "get_decoder") else inner  # what sees pictures has positions of its own
    sizes = []
    for module in reads_text.modules():
        if isinstance(module, nn.Embedding) and module not in tokens and module.num_embeddings - context in (0, 2):  # OPT's begin at 2
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa's begin after that of padding
            sizes.append(min(context, module.num_embeddings - first))
        if hasattr(module, "build_mpt_alibi_tensor"):
            sizes.append(context)
        computed = (table for name, table in module.named_buffers(recurse=False) if "pos" in name and table.dim() == 2)
        sizes += [len(table) for table in computed if len(table) == context]
    return min(sizes, default=None)
