"""Tokenizer and model into memory, ready to use: eval mode, on the device, adapters merged, third-party errors turned into one sentence.

located = locate("HuggingFaceTB/SmolLM2-135M-Instruct", runtime, reporter)
tokenizer, model = load_tokenizer(located), load_model(located, inspect(runtime))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from warnings import catch_warnings, filterwarnings

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from finetune.errors import ModelError, NotHere, OutOfMemory
from finetune.foreign import check_patterns, reading, reason
from finetune.hardware.kernels import use_fast_kernels
from finetune.hardware.machine import Machine, torch_dtype
from finetune.model_folder import AGAIN, NO_ADAPTER, name_patterns, read_json
from finetune.models.kind import auto_class, try_text_alone
from finetune.models.location import LocatedModel
from finetune.models.quantised import stored_as
from finetune.models.templates.plain_chat import is_plain_chat

# Tokens that models carry for padding, or never write themselves; the first one in the vocabulary is used.
PAD_TOKENS = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>", "<|endoftext|>", "<unk>")
SMALLER = "Choose a smaller model, or load it in 8bit or 4bit."


def load_tokenizer(located: LocatedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer with an end and a padding token; `tokenizer.notes` lists what had to be added, as sentences.

    A plain chat template, which is for other programs, is kept as `tokenizer.for_others`.
    """
    home = tokenizer_home(located)
    with _one_sentence(home):
        tokenizer = AutoTokenizer.from_pretrained(home.folder, trust_remote_code=home.tokenizer_code, local_files_only=True)
        tokenizer.notes = _settle_special_tokens(tokenizer)
        tokenizer(tokenizer.decode(tokenizer("a b")["input_ids"]))  # settings that make no sense are found when they are used
    return tokenizer


def tokenizer_home(located: LocatedModel) -> LocatedModel:
    """Whose tokenizer it is: an adapter's own, where it has one, else its base's."""
    home = located
    while home.base is not None and not (home.folder / "tokenizer_config.json").is_file():
        home = home.base
    return home


def load_model(
    located: LocatedModel, machine: Machine, *, dtype: torch.dtype | None = None, load_in: str | None = None, merge: bool = True
) -> PreTrainedModel:
    """The model in `dtype` (the machine's by default) on the machine's device, in eval mode.

    `load_in` is "8bit" or "4bit" (NF4, double quantisation) through bitsandbytes. An adapter is merged into its base; with `merge=False`,
    which keeps its precision, and always on quantised weights, it is a PeftModel around it. One that was trained on 4-bit weights is put
    on weights rounded to 4 bits and widened again, which are those it knows. Raises ModelError, NotHere or OutOfMemory.
    """
    wanted = dtype or torch_dtype(machine)
    if located.base is not None:
        base = load_model(located.base, machine, dtype=wanted, load_in=load_in)
        if load_in is None and getattr(base, "is_quantized", False):  # in its files: the adapter knows exactly those weights
            base = dequantised(base, wanted)
        elif load_in is None and located.base_load_in == "4bit":
            round_to_4bit(base, load_model(located.base, machine, dtype=wanted, load_in="4bit"))
        return _with_adapter(base, located, merge=merge and load_in is None)
    place = torch.cuda.current_device() if machine.device == "cuda" else machine.device  # of several GPUs, the one of this process
    extra: dict[str, Any] = {"quantization_config": _quantisation(load_in, wanted), "device_map": {"": place}} if load_in else {}
    if (stored := stored_as(located.folder)) is not None and stored.form == "bitsandbytes":
        load_in, extra = f"{stored.bits}bit", {"device_map": {"": place}}  # as its files say, whatever was asked for
    logging.disable_progress_bar()  # the engine never draws
    with _one_sentence(located):
        config = AutoConfig.from_pretrained(located.folder, trust_remote_code=located.remote_code, local_files_only=True)
        kind = auto_class(config, located)
        loaded: Any = kind.from_pretrained(
            located.folder,
            dtype=wanted,
            trust_remote_code=located.remote_code,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            adapter_kwargs=NO_ADAPTER,
            **extra,
        )
        model, found = loaded
        if found["missing_keys"]:  # transformers would fill them with random numbers and a warning
            missing = sorted(found["missing_keys"])
            raise ModelError(f"{located.name} is missing {len(missing)} of its weights, such as {missing[0]}.", hint=AGAIN)
        use_fast_kernels(model)
        if load_in:
            keep_unpacked(model)
            _leave_the_file(model)
        else:
            model = model.to(machine.device)
        if config.get_text_config(decoder=True) is not config:
            try_text_alone(model.eval())
        return cast(PreTrainedModel, model.eval())


def dequantised(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model that was quantised in its files, with the values that it computes with as floating-point numbers."""
    plain: Any = model.dequantize(dtype)
    return cast(PreTrainedModel, plain.to(dtype).eval())


def keep_unpacked(model: torch.nn.Module) -> None:
    """Have 4-bit layers compute from the weights as they were quantised, in training, in evaluation and on every CPU.

    Where a CPU has bfloat16 instructions, bitsandbytes repacks the weights of a layer at its first evaluation without gradients: scales
    are rounded to bfloat16, which no unpacking undoes, and the layer has no gradient from then on, also in training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_packed(model: torch.nn.Module) -> bool:
    """Whether bitsandbytes has packed 4-bit layers for the CPU, which then have no gradients; of a model that has answered already."""
    states = (getattr(getattr(module, "weight", None), "quant_state", None) for module in model.modules())
    return any(getattr(state, "packing_format_for_cpu", False) for state in states)


def _leave_the_file(model: torch.nn.Module) -> None:
    """Copy what was not quantised: as views of the mapped file, a few embeddings would keep all of its pages in memory."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


@torch.no_grad()
def round_to_4bit(model: torch.nn.Module, quantised: torch.nn.Module) -> None:
    """Give each linear layer of `model` the values that the 4-bit layer of that name in `quantised` computes with."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, module in quantised.named_modules():
        if isinstance(module, Linear4bit):
            held: Any = module.weight
            values = dequantize_4bit(held.data, held.quant_state)
            weight: Any = model.get_submodule(name).weight
            weight.copy_(values.t() if isinstance(model.get_submodule(name), Conv1D) else values)


def _with_adapter(model: PreTrainedModel, located: LocatedModel, *, merge: bool) -> PreTrainedModel:
    from peft import PeftModel

    settings = located.folder / "adapter_config.json"
    with _one_sentence(located), catch_warnings():
        check_patterns(name_patterns(read_json(settings)), [name for name, _ in model.named_modules()], settings)
        filterwarnings("error", message="Found missing adapter keys")  # peft would leave random or zero weights in their place
        # Without a device peft takes the first GPU there is, whatever the model is on.
        adapted: Any = PeftModel.from_pretrained(model, str(located.folder), torch_device=str(model.device))
        if merge:
            untie_adapted(adapted)
        return cast(PreTrainedModel, (adapted.merge_and_unload() if merge else adapted).eval())


def untie_adapted(adapted: Any) -> None:
    """Give the output head weights of its own where an adapter is on one of two that are tied: merging it would change both."""
    inner = adapted.get_base_model()
    ends = (inner.get_output_embeddings(), inner.get_input_embeddings())
    head, embeddings = (end.get_base_layer() if hasattr(end, "get_base_layer") else end for end in ends)
    if head is not None and head.weight is embeddings.weight and any(hasattr(end, "get_base_layer") for end in ends):
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        for config in (inner.config, inner.config.get_text_config()):
            config.tie_word_embeddings = False


def _quantisation(load_in: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def _settle_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Padding should differ from the end token where possible: a mask by token id would hide real ends."""
    notes = []
    if tokenizer.eos_token is None:
        known = next((token for token in ("<|im_end|>", "<|endoftext|>", "</s>", "<eos>") if token in tokenizer.get_vocab()), None)
        if known is None:
            raise ModelError(
                "The tokenizer has no end token, so generation would never stop.", hint="Set eos_token in tokenizer_config.json."
            )
        tokenizer.eos_token = known
        notes.append(f"The tokenizer has no end token; {known} is used.")
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        vocabulary = tokenizer.get_vocab()
        taken = {tokenizer.eos_token, tokenizer.bos_token}
        free = next((token for token in PAD_TOKENS if token in vocabulary and token not in taken), None)
        tokenizer.pad_token = free or tokenizer.eos_token
        reason = "it was the same as the end token" if free else "no unused token; padding is recognised by length"
        notes.append(f"Padding token: {tokenizer.pad_token} ({reason}).")
    if is_plain_chat(tokenizer.chat_template):
        tokenizer.for_others, tokenizer.chat_template = tokenizer.chat_template, None  # here the model is asked as it was trained
    if not tokenizer.chat_template:
        notes.append("The tokenizer has no chat template: a plain one is used.")
    return notes


@contextmanager
def _one_sentence(located: LocatedModel) -> Iterator[None]:
    """Errors of transformers, safetensors, peft and torch as ours, and whatever else a model folder brings about."""
    with reading(located.name, ModelError, hint=AGAIN, what="cannot be loaded"):
        try:
            yield
        except SafetensorError as error:
            raise ModelError(f"The weights of {located.name} in {located.folder} are damaged: {reason(error)}.", hint=AGAIN) from error
        except ImportError as error:
            raise NotHere(f"{located.name} needs a missing package: {reason(error)}", hint="Install it: pip install NAME") from error
        except (MemoryError, RuntimeError) as error:
            # On a CPU torch only says it.
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise OutOfMemory(f"{located.name} does not fit into memory.", hint=SMALLER) from error
            raise
