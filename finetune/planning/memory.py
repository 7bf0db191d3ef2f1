"""Memory of a training by arithmetic, from what a method says of itself and a model's shape; no torch, so that the wizard can ask too.

memory_parts(footprint, parameters=134_515_008, linear=106_000_000, trainable=4_884_480, layers=30, hidden=576, tokens=512, ...)
adapter_parameters(rank=16, linear=106_168_320, layers=30, hidden=576)        # 4_884_480
"""

from __future__ import annotations

from finetune.methods.base import Footprint

LIBRARIES = 900 * 2**20  # torch, transformers, datasets and Python in memory
LOSS = 200 * 2**20  # the chunks of the head on a CPU
GPU_LOSS = 600 * 2**20  # and on a GPU, where they are larger
GPU_KEPT = 0.92  # of the activations: measured with shapes of Llama 1B and Qwen3 0.6B, of which it is within 15 % (docs/log.md)
CHECKPOINTED = 1.5  # with activation checkpointing only a layer's input stays
MATRICES = 7  # linear layers of a usual block: query, key, value, output, gate, up, down


def memory_parts(
    footprint: Footprint,
    *,
    parameters: int,
    linear: int,
    trainable: int,
    layers: int,
    hidden: int,
    tokens: int,
    narrow: int,
    on_cpu: bool,
    checkpointed: bool,
) -> dict[str, int]:
    """Bytes by what they are for; `linear` of the `parameters` are in linear layers, `narrow` is the size of the dtype in bytes.

    `tokens` are those that go through the model at once.
    """
    if not footprint.adapter:
        weights = parameters * 4.0
    elif footprint.bits is not None:
        weights = (parameters - linear) * narrow + linear * footprint.bits / 8
    else:
        weights = parameters * float(narrow)
    kept = CHECKPOINTED if checkpointed else footprint.activations * (1 if on_cpu else GPU_KEPT)
    parts: dict[str, float] = {
        "libraries": LIBRARIES if on_cpu else 0,
        "weights": weights,
        "gradients": trainable * 4,
        "optimizer": trainable * footprint.state,
        "activations": tokens * layers * hidden * kept * narrow,
        "loss": LOSS if on_cpu else GPU_LOSS,
    }
    return {part: int(size) for part, size in parts.items()}


def adapter_parameters(*, rank: float, linear: int, layers: int, hidden: int) -> int:
    """Parameters of an adapter on every linear layer of a model: rank * (in + out), summed.

    Blocks are taken to have seven matrices with one side as wide as the model, as in Llama and its kin, for which this is exact.
    """
    return round(rank * (layers * MATRICES * hidden + linear // hidden)) if hidden else 0
