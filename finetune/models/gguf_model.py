"""A GGUF file as a plain model folder, once: transformers reads the weights, and the numbers that it does not read are set here.

    to_folder(read_header(Path("Llama-3.2-1B-Instruct-Q4_K_M.gguf")), folder)

transformers takes scaled positions, soft caps and windows of GGUF files for those of an ordinary model, without a word: its Llama 3 rotates
as Llama 2 does. Whatever a file states must be what the finished configuration states again (gguf_architectures.py), or the file is
refused, and so is one with weights that transformers would leave out or make up.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.models.gguf_architectures import KNOWN, places, query_scale, rotations
from finetune.models.gguf_file import Header, dequantised
from finetune.system.storage import OTHER_CACHE, cache_folder, check_room

if TYPE_CHECKING:
    from numpy import ndarray

VERSION = 2  # of what this makes of a file
INSTEAD = "Use a safetensors version of the model."
SCALING = "rope.scaling."
ROTATIONS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
LLAMA_3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
FREE = ("context_length", "vocab_size")  # files may state less than a model has
READS_ALL = ("gpt-oss", "gemma4")  # of which transformers itself reads or knows how positions are scaled
USUAL_YARN = {f"{SCALING}yarn_beta_fast": 32.0, f"{SCALING}yarn_beta_slow": 1.0}  # what transformers takes where nothing is said


def to_folder(header: Header, folder: Path) -> None:
    """Write the file as a plain model folder (float32 safetensors, tokenizer).

    Raises ModelError for an architecture that transformers cannot read from GGUF, or that states what it would compute otherwise, and
    HardwareError if the disk is too full.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    check_room(header.path.name, header.parameters * 4, folder.parent, OTHER_CACHE)
    file = {"gguf_file": header.path.name, "trust_remote_code": False}
    with reading(header.path, ModelError, hint=INSTEAD, what="cannot be converted"), _alone(header.path) as place:
        config = AutoConfig.from_pretrained(place, **file)
        _complete(config, header)
        _check(config, header)
        with redirect_stderr(io.StringIO()):  # transformers draws a bar here that no setting turns off
            told = {"dtype": torch.float32, "output_loading_info": True, **file}
            model, loading = AutoModelForCausalLM.from_pretrained(place, config=config, **told)
        _check_weights(model, config, header, loading["missing_keys"])
        # transformers refuses to save a model loaded from GGUF; the same weights in a model built from the plain config can be saved.
        plain = type(model.config).from_dict({k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
        plain.architectures = [type(model).__name__]
        with torch.device("meta"):
            bare = type(model)(plain)
        bare.load_state_dict(model.state_dict(), assign=True)
        bare.tie_weights()
        _check_rotations(model, config, header)
        with cache_folder(folder) as unfinished:
            bare.save_pretrained(unfinished)
            AutoTokenizer.from_pretrained(place, **file).save_pretrained(unfinished)


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder with nothing but this file: transformers would also read a tokenizer, settings or an adapter that lie beside it."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for link in (os.symlink, os.link):  # Windows allows the first to few, and the second on one disk
            with suppress(OSError):
                link(file.absolute(), Path(folder) / file.name)
                break
        yield Path(folder) if os.listdir(folder) else file.parent


def _stated(header: Header, key: str) -> Any:
    return header.metadata.get(f"{header.metadata['general.architecture']}.{key}")


def _tensor(header: Header, name: str) -> ndarray | None:
    return next((dequantised(header, tensor) for tensor in header.tensors if tensor.name == name), None)


def _complete(config: Any, header: Header) -> None:
    """Set what the file states and transformers has not read."""
    kind = config.model_type
    if kind not in KNOWN:
        return
    if (size := _stated(header, "attention.key_length")) and getattr(config, "head_dim", size) != size:
        config.head_dim = size
    if kind == "gpt2":
        config.n_positions = _stated(header, "context_length") or config.n_positions
        return
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    if kind.startswith("gemma"):
        config.query_pre_attn_scalar = query_scale(config)
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            setattr(config, name, _stated(header, name) or getattr(config, name))
    if near := _stated(header, "rope.freq_base_swa"):
        config.rope_parameters["sliding_attention"]["rope_theta"] = near
    if kind == "phi3":
        config.sliding_window = _stated(header, "attention.sliding_window") or None
        rotated = _stated(header, "rope.dimension_count") or config.hidden_size / config.num_attention_heads
        rope["partial_rotary_factor"] = rotated * config.num_attention_heads / config.hidden_size
    if (scaling := _stated(header, f"{SCALING}type")) in ("linear", "yarn"):
        rope |= {"rope_type": scaling, "factor": _stated(header, f"{SCALING}factor")}
    original = _stated(header, f"{SCALING}original_context_length")
    if (slower := _tensor(header, ROTATIONS[0])) is not None:
        rope |= LLAMA_3 | {"factor": float(slower.max())}
    factors = {name: _tensor(header, f"rope_factors_{name}.weight") for name in ("long", "short")}
    if factors["long"] is not None and factors["short"] is not None:
        rope |= {"rope_type": "longrope", **{f"{name}_factor": values.tolist() for name, values in factors.items() if values is not None}}
        rope["attention_factor"] = _stated(header, f"{SCALING}attn_factor")
        config.original_max_position_embeddings = original or config.max_position_embeddings
    if original and rope.get("rope_type") in ("yarn", "longrope"):  # Phi states it where nothing is scaled too
        rope["original_max_position_embeddings"] = original


def _check(config: Any, header: Header) -> None:
    """Raises ModelError for a number in the file that the configuration does not have."""
    known = KNOWN.get(config.model_type)
    ours: dict[str, Any] = USUAL_YARN | known.facts(config) if known else {}
    if any(tensor.name == ROTATIONS[1] for tensor in header.tensors):
        ours[f"{SCALING}type"] = "longrope"
    architecture = header.metadata["general.architecture"]
    plain = _stated(header, f"{SCALING}type") in (None, "none")
    for name, value in header.metadata.items():
        key = name.removeprefix(f"{architecture}.")
        scales = key.startswith(SCALING) and key != f"{SCALING}finetuned" and not plain and architecture not in READS_ALL
        if key == name or key in FREE or not (key in ours or scales):
            continue
        if key not in ours or not _same(value, ours[key]):
            raise ModelError(f"{header.path.name} states {name} {value}, which transformers does not read.", hint=INSTEAD)


def _same(one: Any, other: Any) -> bool:
    return isclose(one, other, rel_tol=1e-6) if isinstance(one, float) else bool(one == other)


def _check_weights(model: Any, config: Any, header: Header, made_up: Collection[str]) -> None:
    """Raises ModelError for weights that the file has not, and for those of a layer that the model has not."""
    if made_up:
        raise ModelError(f"{header.path.name} has no weights for {min(made_up)}, as transformers reads it.", hint=INSTEAD)
    if known := KNOWN.get(config.model_type):
        read = {place for place, _, _ in places(model, known)}
        left = [tensor.name for tensor in header.tensors if tensor.name.startswith("blk.") and tensor.name not in read]
        if left:
            raise ModelError(f"{header.path.name} has the weights {left[0]}, which transformers does not read.", hint=INSTEAD)


def _check_rotations(model: Any, config: Any, header: Header) -> None:
    """Raises ModelError for positions that the file scales by a tensor and the model otherwise."""
    import numpy

    if header.metadata["general.architecture"] in READS_ALL:
        return
    ours = {name: values.numpy() for name, values in rotations(model, config)} if config.model_type in KNOWN else {}
    for name in ROTATIONS:
        stored, made = _tensor(header, name), ours.get(name)
        alike = stored is made is None or (stored is not None and made is not None and numpy.allclose(stored, made, rtol=1e-3))
        if not alike:
            raise ModelError(f"{header.path.name} scales positions by {name} as transformers does not.", hint=INSTEAD)
