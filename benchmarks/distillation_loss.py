"""The distillation loss alone: extra memory and time, by size of the vocabulary (`distillation.py --loss`).

Forward KL at temperature 2 and cross-entropy, half and half, on 1,000 tokens of width 576. The naive way is what the formula says: both
models' logits, log_softmax, KLDivLoss, backward. Extra memory is the process's peak over what it held before, less the gradients
themselves, which either way has to return.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import cache
from typing import Any

import contest

TOKENS, WIDTH, REPEATS, TEMPERATURE, ALPHA = 1000, 576, 3, 2.0, 0.5
VOCABULARIES = (32_768, 65_536, 131_072, 262_144)
WAYS = ("naive", "naive, head frozen", "fused", "fused, head frozen", "gradient cache, head frozen")


def main(worker: str | None, rounds: int) -> None:
    if worker:
        way, vocabulary = worker.rsplit("/", 1)
        print(contest.MARK + json.dumps(measure(way, int(vocabulary))))
        return
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for vocabulary in VOCABULARIES:
            for way in WAYS:
                command = [sys.executable, __file__.replace("_loss.py", ".py"), "--loss", "--worker", f"{way}/{vocabulary}"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                line = next((line for line in done.stdout.splitlines() if line.startswith(contest.MARK)), None)
                if line is None:
                    print(f"{way}, {vocabulary}: failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                    continue
                found.setdefault((way, vocabulary), []).append(json.loads(line.removeprefix(contest.MARK)))
                print(f"{way}, {vocabulary}: {_cell(found[way, vocabulary])}", file=sys.stderr, flush=True)
    print(f"{'extra MiB; ms per 1,000 tokens':<32}" + "".join(f"{vocabulary // 1024:>15}k" for vocabulary in VOCABULARIES))
    for way in WAYS:
        cells = [_cell(found.get((way, vocabulary), [])) for vocabulary in VOCABULARIES]
        print(f"{way:<32}" + "".join(f"{cell:>16}" for cell in cells))


def _cell(results: list[dict[str, float]]) -> str:
    if not results:
        return "failed"
    return f"{statistics.median(r['extra'] for r in results):,.0f}; {statistics.median(r['ms'] for r in results):,.0f}"


def measure(way: str, vocabulary: int) -> dict[str, float]:
    """Extra MiB of one pass in a fresh process, and the fastest of some passes in ms per 1,000 tokens."""
    import psutil
    import torch

    torch.manual_seed(0)
    frozen = way.endswith("frozen")
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = (torch.randn(vocabulary, WIDTH) / WIDTH**0.5).requires_grad_(not frozen)
    taught = torch.randn(TOKENS, WIDTH)
    teacher_weight = torch.randn(vocabulary, WIDTH) / WIDTH**0.5
    labels = torch.randint(vocabulary, (TOKENS,))
    compute = _naive if way.startswith("naive") else _fused
    inputs: Any = (hidden, weight, taught, teacher_weight, labels)
    if way.startswith("gradient"):
        compute, inputs = _cached, (hidden, weight, torch.randn(TOKENS, WIDTH), torch.randn(TOKENS), labels)
    # Threads, kernels and the library's own buffers are there before the measurement begins.
    _fused(*(tensor[:8] for tensor in (hidden, weight, taught, teacher_weight)), labels[:8] % 8).backward()
    hidden.grad = weight.grad = None
    before = psutil.Process().memory_info().rss
    with contest.Watch() as watch:
        compute(*inputs).backward()
    gradients = sum(tensor.grad.nbytes for tensor in (hidden, weight) if tensor.grad is not None)
    seconds = []
    for _ in range(REPEATS):
        hidden.grad = weight.grad = None
        began = time.perf_counter()
        compute(*inputs).backward()
        seconds.append(time.perf_counter() - began)
    return {"extra": (watch.peak_bytes - before - gradients) / 2**20, "ms": min(seconds) * 1e6 / TOKENS}


def _naive(hidden: Any, weight: Any, taught: Any, teacher_weight: Any, labels: Any) -> Any:
    from torch.nn.functional import cross_entropy, kl_div, linear, log_softmax, softmax

    ours, theirs = linear(hidden, weight), linear(taught, teacher_weight)
    soft = kl_div(log_softmax(ours / TEMPERATURE, -1), softmax(theirs / TEMPERATURE, -1), reduction="sum")
    return ALPHA * cross_entropy(ours, labels, reduction="sum") + (1 - ALPHA) * TEMPERATURE**2 * soft


def _fused(hidden: Any, weight: Any, taught: Any, teacher_weight: Any, labels: Any) -> Any:
    from finetune.distillation.loss import Distillation
    from finetune.distillation.objectives.forward_kl import ForwardKL
    from finetune.training.chunked_loss import ChunkLogits, chunked_loss
    from finetune.training.head import Head

    teacher = ChunkLogits("teacher", taught, Head(teacher_weight), TEMPERATURE)
    return chunked_loss(hidden, Head(weight), Distillation(labels, teacher, ForwardKL(), ALPHA, TEMPERATURE), workspace=workspace())


def _cached(hidden: Any, weight: Any, centre: Any, negentropy: Any, labels: Any) -> Any:
    from finetune.distillation.loss import CachedGradient
    from finetune.training.chunked_loss import chunked_loss
    from finetune.training.head import Head

    head = Head(weight)
    return chunked_loss(hidden, head, CachedGradient(labels, hidden, head, centre, negentropy, ALPHA, TEMPERATURE), workspace=workspace())


@cache
def workspace() -> Any:
    """One workspace for all passes, as a trainer keeps one for all steps."""
    from finetune.training.chunked_loss import Workspace

    return Workspace()
