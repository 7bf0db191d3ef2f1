"""GGUF files: their header without any library, and the values of their tensors.

    header = read_header(Path("model.Q4_K_M.gguf"))
    header.metadata["general.architecture"], header.parameters

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError
from finetune.foreign import DIMENSIONS, ELEMENTS, check_counts, reading
from finetune.model_folder import PAGE

if TYPE_CHECKING:
    import numpy

DOWNLOAD = "Download the file again."
STRING, ARRAY = 8, 9
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: its shape in torch order, its ggml type, and its offset in the file."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Header:
    """The metadata (arrays only by their length) and the tensors of a GGUF file."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)


def read_header(path: Path) -> Header:
    """Parse the header and check that the file is as long as it states; raises ModelError for a broken file."""
    with reading(path, ModelError, hint=DOWNLOAD, what="is not a readable GGUF file"):
        header = _header(path)
        check_counts(header.metadata, path)
        _check_layers(header)
    return header


def _header(path: Path) -> Header:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = _parse(path, content)
        for tensor in header.tensors:
            if tensor.offset + _bytes(tensor) > len(content):
                raise ModelError(f"{path} is truncated: {tensor.name[:80]} is beyond the end of the file.", hint=DOWNLOAD)
        return header


def dequantised(header: Header, tensor: Tensor) -> numpy.ndarray:
    """The tensor's values as float32."""
    import numpy
    from gguf import GGMLQuantizationType, dequantize

    raw = numpy.memmap(header.path, mode="r", dtype=numpy.uint8, offset=tensor.offset, shape=(_bytes(tensor),))
    rows = raw.reshape(*tensor.shape[:-1], -1)
    kind = GGMLQuantizationType(tensor.type)
    values = rows.view(numpy.float32) if kind == GGMLQuantizationType.F32 else dequantize(rows, kind)
    return numpy.array(values, dtype=numpy.float32).reshape(tensor.shape)


def _parse(path: Path, content: mmap.mmap) -> Header:
    magic, version, tensor_count, entry_count = struct.unpack_from("<4sIQQ", content, 0)
    if magic != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not known")
    place = 24
    metadata: dict[str, Any] = {}
    left = ELEMENTS - _checked(tensor_count, ELEMENTS) - _checked(entry_count, ELEMENTS)
    for _ in range(entry_count):
        key, place = _string(content, place)
        (kind,) = struct.unpack_from("<I", content, place)
        metadata[key], place = _value(content, place + 4, kind, left)
        left -= metadata[key] if kind == ARRAY else 0
    if place > len(content):
        raise ValueError("it is truncated")
    if not tensor_count:
        raise ValueError("it has no tensors")
    table = []
    for _ in range(tensor_count):
        name, place = _string(content, place)
        (dimensions,) = struct.unpack_from("<I", content, place)
        if dimensions > DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions:,} dimensions")
        shape = struct.unpack_from(f"<{dimensions}Q", content, place + 4)
        place += 4 + 8 * dimensions
        table.append((name, shape[::-1], *struct.unpack_from("<IQ", content, place)))
        place += 12
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= PAGE:
        raise ValueError("its alignment is impossible")
    start = -(-place // alignment) * alignment
    tensors = tuple(Tensor(name, shape, kind, start + offset) for name, shape, kind, offset in table)
    return Header(path, metadata, tensors)


def _check_layers(header: Header) -> None:
    kind = header.metadata.get("general.architecture")
    layers = header.metadata.get(f"{kind}.block_count", 0)
    if not isinstance(kind, str) or not isinstance(layers, int) or layers > len(header.tensors):
        raise ModelError(f"{header.path} has {len(header.tensors):,} tensors, too few for its {layers} layers.", hint=DOWNLOAD)


def _string(content: mmap.mmap, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", content, place)
    end = place + 8 + length
    if end > len(content):
        raise ValueError("it is truncated")
    return content[place + 8 : end].decode("utf-8", "replace"), end


def _checked(count: int, most: int) -> int:
    """The library that reads the rest makes objects of all elements, even of those beyond the end of the file."""
    if count > most:
        raise ValueError(f"its header has lists of more than {ELEMENTS:,} elements")
    return count


def _value(content: mmap.mmap, place: int, kind: int, most: int) -> tuple[Any, int]:
    if kind == STRING:
        return _string(content, place)
    if kind != ARRAY:
        return struct.unpack_from("<" + FIXED[kind], content, place)[0], place + struct.calcsize("<" + FIXED[kind])
    element, count = struct.unpack_from("<IQ", content, place)
    _checked(count, most)
    place += 12
    if element != STRING:
        return count, place + count * struct.calcsize("<" + FIXED[element])
    length_of = struct.Struct("<Q").unpack_from
    for _ in range(count):  # a vocabulary: nothing to do but walk over it
        place += 8 + length_of(content, place)[0]
    return count, place


def _bytes(tensor: Tensor) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type)]
    return prod(tensor.shape) // block * size
