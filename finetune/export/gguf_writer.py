"""A GGUF file, written tensor by tensor, and read back.

    written = write(path, known, facts, plan, tensors(model, known), progress)
    check_read_back(path, written)           # raises FinetuneError if one byte differs

Only one tensor at a time is held in its new format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.errors import FinetuneError
from finetune.export.gguf_types import Kind, format_of
from finetune.export.quantising import encode
from finetune.models.gguf_architectures import Architecture, take
from finetune.system.storage import to_disk

ROUNDED = 0.5  # as a share of a weight, by root mean square: four bits change about a tenth
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planned:
    """A tensor before it is written: `instead` is the format that its rows do not fit into."""

    shape: tuple[int, ...]
    format: str
    instead: str | None

    @property
    def bytes(self) -> int:
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.format]]
        return prod(self.shape) // block * size


def plan(shapes: Iterable[tuple[str, tuple[int, ...]]], kind: Kind, **model: Any) -> dict[str, Planned]:
    """`model` is what `format_of` has to know of it."""
    return {name: Planned(shape, *format_of(name, shape, kind, **model)) for name, shape in shapes}


def write(
    path: Path,
    architecture: str,
    facts: dict[str, Any],
    planned: dict[str, Planned],
    tensors: Iterable[tuple[str, Tensor]],
    progress: Progress,
    *,
    exact: bool = False,
) -> dict[str, str]:
    """The hash of each tensor as it was meant. `facts` are the keys of the header; raises OSError, and FinetuneError as `encode` does.

    `exact` is for weights that were trained in this format: what the file says must be they, bit for bit.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in facts.items():
        _add(writer, key, value)
    for name, tensor in planned.items():
        type = gguf.GGMLQuantizationType[tensor.format]
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, type) if gguf.GGML_QUANT_SIZES[type][0] > 1 else tensor.shape
        kept = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}.get(tensor.format, np.uint8)
        writer.add_tensor_info(name, shape, np.dtype(kept), tensor.bytes, raw_dtype=type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        meant: dict[str, str] = {}
        total, done = sum(tensor.bytes for tensor in planned.values()), 0
        for name, values in tensors:
            given = values.to("cpu", torch.float32).contiguous().numpy()
            stored = encode(given, planned[name].format)
            if exact and not np.array_equal(gguf.dequantize(stored, gguf.GGMLQuantizationType[planned[name].format]), given):
                raise FinetuneError(
                    f"The weights {name} are not those that were trained in {planned[name].format}: they would be rounded again.",
                    hint="Train again, or export another type, such as q8_0.",
                )
            meant[name] = _hash(stored)
            writer.write_tensor_data(stored)
            done += planned[name].bytes
            progress(done, total)
    finally:
        writer.close()
    to_disk(path)
    return meant


def check_read_back(path: Path, meant: dict[str, str]) -> None:
    """Raises FinetuneError for a tensor that is not, bit for bit, what was meant."""
    import gguf

    found = {tensor.name: _hash(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    wrong = sorted(name for name in {*meant, *found} if meant.get(name) != found.get(name))
    if wrong:
        raise FinetuneError(
            f"{path.name} does not hold what was written: {wrong[0]} differs ({len(wrong)} of {len(meant)} tensors).",
            hint="Check the disk, and export again.",
        )


@torch.no_grad()
def take_weights(path: Path, model: Any, known: Architecture) -> None:
    """Give the model the weights of the file, as its format rounded them; raises FinetuneError for one that is another."""
    import gguf

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def values(name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = stored[name]
        return torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).view(shape)

    for name, away in take(model, known, values):
        if not away <= ROUNDED:
            raise FinetuneError(f"{path.name} does not hold the model's weights: {name} is another.", hint="Export another type.")


def _hash(values: np.ndarray[Any, Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).view(np.uint8).data, digest_size=16).hexdigest()


def _add(writer: Any, key: str, value: Any) -> None:
    """A key in the type that llama.cpp expects of such values."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
