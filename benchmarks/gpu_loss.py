"""The head and its loss alone: ours by size of its chunks, torch's on full logits, and Liger's; sections of gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from gpu_bench import Bench
from gpu_profile import Kernels
from timed_parts import DEVICE, Part, Parts, fresh, installed, peak, seconds
from torch import Tensor, nn

from finetune.training.head import Head
from finetune.training.loss.chunked import CrossEntropy, chunked_loss
from finetune.training.loss.workspace import Workspace

Loss = Callable[[Tensor, Tensor, Tensor], Any]
VOCABULARIES = (49_152, 50_257, 128_256, 262_144)  # the second as GPT-2's: rows of an odd length, which kernels like less
CHUNKS = (64, 128, 256, 512, 1024)  # MiB
SLOWER = 1.2  # times Liger's time is allowed


def ours(chunk_bytes: int | None = None) -> Loss:
    """With chunks of this size, or as a training takes them."""
    workspace = Workspace(chunk_bytes)
    return lambda h, w, y: chunked_loss(h, Head(w), CrossEntropy(y), workspace=workspace) / len(y)


def full_logits(h: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy((h @ w.t()).float(), y)


@cache
def _liger() -> Any:  # in a part of its own: where it cannot be imported, the other lines are there
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()


def sizes(bench: Bench) -> tuple[int, int]:
    """Tokens and width."""
    return (64, 32) if bench.tiny else (8192, 2048)


def case(vocabulary: int, trains: bool) -> str:
    return f"{vocabulary:,} tokens, head {'trains' if trains else 'frozen'}"


def step_of(bench: Bench, way: Callable[[], Loss], vocabulary: int, trains: bool) -> Callable[[], None]:
    """A forward and a backward pass of the head and its loss."""
    tokens, hidden = sizes(bench)
    torch.manual_seed(0)
    h = torch.randn(tokens, hidden, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    w = (torch.randn(vocabulary, hidden, device=DEVICE, dtype=torch.bfloat16) * 0.02).requires_grad_(trains)
    y = torch.randint(0, vocabulary, (tokens,), device=DEVICE)
    loss = way()

    def step() -> None:
        h.grad = w.grad = None
        loss(h, w, y).backward()

    return step


def measured(bench: Bench, section: str, what: str, way: Callable[[], Loss], vocabulary: int, trains: bool, **more: Any) -> None:
    """Milliseconds and MiB of a forward and a backward pass."""
    tokens, hidden = sizes(bench)
    step = step_of(bench, way, vocabulary, trains)
    with fresh():
        before = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
        took = seconds(step, 10)
    share = (6 if trains else 4) * tokens * hidden * vocabulary / took / bench.rate
    more |= {"ms": round(took * 1e3, 1), "MiB": round((peak() - before) / 2**20), "of_the_products'_rate": round(share, 2)}
    bench.tell(section, what, **more)


def loss(bench: Bench) -> Parts:
    """Ours as a training takes it, and others'."""
    ways: dict[str, Callable[[], Loss]] = {"ours": ours, "full logits": lambda: full_logits}
    if DEVICE == "cuda" and installed("liger-kernel"):
        ways["Liger"] = lambda: lambda h, w, y: _liger()(w, h, y)
    for vocabulary in (500,) if bench.tiny else VOCABULARIES:
        for trains in (False, True):
            for name, way in ways.items():
                what = f"{case(vocabulary, trains)}: {name}"
                yield Part(what, partial(measured, bench, "loss", what, way, vocabulary, trains), 20.0)


def chunks(bench: Bench) -> Parts:
    """Ours by the size of a chunk, and the smallest that is quick enough: what GPU_CHUNK_BYTES could be."""
    for vocabulary in (500,) if bench.tiny else (128_256, 262_144):
        for trains in (False, True):
            for size in CHUNKS:
                what = f"{case(vocabulary, trains)}: {size} MiB"
                rows = min(sizes(bench)[0], size * 2**20 // (4 * vocabulary))
                way = partial(ours, size * 2**20)
                yield Part(what, partial(measured, bench, "chunks", what, way, vocabulary, trains, rows=rows), 20.0)
            yield Part(f"{case(vocabulary, trains)}: smallest", partial(_smallest, bench, case(vocabulary, trains)), 5.0)


def loss_profile(bench: Bench) -> Parts:
    """Where the time of ours goes; a part of gpu.py's profiles."""

    def profiled(vocabulary: int, trains: bool) -> None:
        Kernels.of(step_of(bench, ours, vocabulary, trains), 5).tell(bench, f"the loss, {case(vocabulary, trains)}")

    for vocabulary in (500,) if bench.tiny else (128_256,):
        for trains in (False, True):
            yield Part(f"the loss, {case(vocabulary, trains)}", partial(profiled, vocabulary, trains), 20.0)


def _smallest(bench: Bench, of: str) -> None:
    found = {line["what"].removeprefix(f"{of}: "): line["ms"] for line in bench.told if line["what"].startswith(f"{of}: ") and "ms" in line}
    sweep = {size: found[f"{size} MiB"] for size in CHUNKS if f"{size} MiB" in found}
    if not sweep:
        return  # each has said why
    whose = "Liger" if "Liger" in found else "the quickest"
    limit = SLOWER * found["Liger"] if "Liger" in found else 1.05 * min(sweep.values())
    enough = [size for size, took in sweep.items() if took <= limit]
    bench.tell("chunks", f"{of}: smallest within {limit:.1f} ms, by {whose}", MiB_of_a_chunk=min(enough, default="none"))
