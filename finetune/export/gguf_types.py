"""The types of a GGUF file, and which of ggml's formats each of its tensors gets.

kind_of("q4_k_m").limit                          # 0.4
format_of("blk.0.ffn_down.weight", (576, 1536), KINDS["q4_k_m"], layers=30, tied=True)      # ("Q6_K", None)

The rules are those of llama.cpp's own quantiser (src/llama-quant.cpp, without an importance matrix), so that a file is what its name says
elsewhere: a head in Q6_K, the values of attention and the last part of the feed-forward in more bits in every third layer, queries, keys
and values that are one tensor in more bits in all of them, and other formats where a row has no whole number of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.errors import BadInput
from finetune.registry import did_you_mean

DIFFERENCE, KL = "difference", "kl"


@dataclass(frozen=True)
class Kind:
    """A type that can be asked for: ggml's format for most weights, the number that the file names itself by, and the gate's limit.

    `measure` is what is limited: the largest difference of a log-probability (nats), or the mean KL divergence (nats) from our model.
    """

    name: str
    format: str
    file_type: int
    limit: float
    measure: str = KL

    @property
    def mixed(self) -> bool:
        return self.name.endswith("_m")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("f16", "F16", 1, 0.05, DIFFERENCE),
        Kind("bf16", "BF16", 32, 0.02),
        Kind("q8_0", "Q8_0", 7, 0.05),
        Kind("q4_0", "Q4_0", 2, 0.8),
        Kind("q4_k_m", "Q4_K", 15, 0.4),
        Kind("q5_k_m", "Q5_K", 17, 0.2),
        Kind("q6_k", "Q6_K", 18, 0.1),
    )
}
DEFAULT = "f16"
BLOCK = {"F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}
INSTEAD = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # where a row is no multiple of 256 values
QUANTISES_ITSELF = ("F32", "F16", "BF16", "Q4_0", "Q5_0", "Q5_1", "Q8_0")  # the gguf package; the others need ggml
TOGETHER = {"q4_k_m": "Q5_K", "q5_k_m": "Q6_K"}  # queries, keys and values as one tensor
NEVER = ("position_embd.weight",)
ENDS = ("token_embd.weight", "output.weight")
TRAINED_LIMIT = 0.05  # KL from a model that was trained in this type: only what llama.cpp rounds while it computes is left


def kind_of(name: str) -> Kind:
    """The type called `name`, in capitals too; raises BadInput that names the nearest."""
    kind = KINDS.get(name.lower())
    if kind is None:
        raise BadInput(f"There is no GGUF type {name!r}.{did_you_mean(name.lower(), list(KINDS))}", hint=f"Choose from {', '.join(KINDS)}.")
    return kind


def format_of(name: str, shape: tuple[int, ...], kind: Kind, *, layers: int, tied: bool, ends: str | None = None) -> tuple[str, str | None]:
    """ggml's format of a tensor, and the one it would have had if its rows were whole blocks.

    `tied` is whether the embeddings are the head too; `ends` is the format of both where the model was trained in it.
    """
    if len(shape) < 2 or not name.endswith(".weight") or "_norm." in name or name in NEVER:
        return "F32", None
    wanted = ends if ends and name in ENDS else _wanted(name, shape[-1], kind, layers, tied)
    given = wanted
    if shape[-1] % BLOCK[given]:
        given = INSTEAD.get(given, "F16")
    if shape[-1] % BLOCK[given]:
        given = "F16"
    return given, wanted if given != wanted else None


def _wanted(name: str, columns: int, kind: Kind, layers: int, tied: bool) -> str:
    if BLOCK[kind.format] == 1:
        return kind.format
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "Q6_K" if columns % BLOCK[kind.format] == 0 and kind.format != "Q8_0" else "Q8_0"
    if "attn_qkv." in name:  # of GPT-2 and Phi 3
        return TOGETHER.get(kind.name, kind.format)
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
    matters = any(part in name for part in ("attn_v.", "ffn_down."))
    return "Q6_K" if kind.mixed and matters and _more_bits(layer, layers) else kind.format


def _more_bits(layer: int, layers: int) -> bool:
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2
