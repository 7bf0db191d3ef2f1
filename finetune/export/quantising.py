"""Quantise weights to ggml's formats: with the gguf package, or for K-quants with ggml itself, which is inside xllamacpp.

encode(values, "Q4_K").nbytes       # 144 for each 256 values
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from finetune.errors import FinetuneError, NotHere
from finetune.export.gguf_types import QUANTISES_ITSELF

PACKAGE = "xllamacpp"
INSTALL = "pip install xllamacpp"


def has_llama_cpp() -> bool:
    """Whether the program that people will use is here too; imports nothing."""
    return find_spec(PACKAGE) is not None


def needs_llama_cpp(format: str) -> bool:
    return format not in QUANTISES_ITSELF


def encode(values: np.ndarray[Any, Any], format: str) -> np.ndarray[Any, Any]:
    """A tensor [rows, columns] of float32 as ggml stores it: rows of bytes, or of numbers for F32 and F16.

    Raises NotHere without ggml where it is needed, FinetuneError for weights that the format cannot hold.
    """
    import gguf

    values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise FinetuneError("The model has weights that are NaN or infinite, so it cannot be exported.", hint="Train it again.")
    if format == "F32":
        return values
    if format == "F16":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise FinetuneError("The model has weights that are too large for f16.", hint="Choose bf16: --to gguf:bf16")
        return halves
    type = gguf.GGMLQuantizationType[format]
    return _by_ggml(values, type) if needs_llama_cpp(format) else gguf.quantize(values, type)


def _by_ggml(values: np.ndarray[Any, Any], type: Any) -> np.ndarray[Any, Any]:
    import gguf

    made = np.empty(gguf.quant_shape_to_byte_shape(values.shape, type), dtype=np.uint8)
    rows = int(np.prod(values.shape[:-1]))
    written = _ggml().ggml_quantize_chunk(int(type), values.ctypes.data, made.ctypes.data, 0, rows, values.shape[-1], None)
    if written != made.nbytes:
        raise FinetuneError(f"ggml wrote {written:,} bytes of {type.name} where {made.nbytes:,} were expected.")
    return made


@cache
def _ggml() -> ctypes.CDLL:
    if not has_llama_cpp():
        raise NotHere("K-quants are made by llama.cpp, which is not installed.", hint=f"Install it: {INSTALL}")
    import xllamacpp.xllamacpp

    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library
