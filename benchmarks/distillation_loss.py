"""The distillation loss alone: extra memory and time, by size of the vocabulary (`distillation.py --loss`).

Forward KL at temperature 2 and cross-entropy, half and half, on 1,000 tokens of width 576. The naive way is what the formula says: both
models' logits, log_softmax, KLDivLoss, backward. Where a row says weights, each token has an alpha of its own; two teachers
are mixed by 0.7 and 0.3. Extra memory is the process's peak over what it held before, less the gradients themselves, which either way has
to return.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import contest

TOKENS, WIDTH, REPEATS, TEMPERATURE, ALPHA = 1000, 576, 3, 2.0, 0.5
SHARES = (0.7, 0.3)  # of two teachers
OBJECTIVES = {"reverse KL": "reverse_kl", "JSD": "jsd"}
VOCABULARIES = (32_768, 65_536, 131_072, 262_144)
WAYS = (
    "naive",
    "naive, head frozen",
    "fused",
    "fused, head frozen",
    "fused, weights, head frozen",
    "fused, weights, two teachers",
    "fused, weights, two teachers, head frozen",
    "fused, weights, two teachers, reverse KL, head frozen",
    "fused, weights, two teachers, JSD, head frozen",
    "gradient cache, head frozen",
    "gradient cache, weights, two teachers, head frozen",
)


def main(worker: str | None, rounds: int, only: str = "", sizes: Sequence[int] = VOCABULARIES) -> None:
    if worker:
        asked, size = worker.rsplit("/", 1)
        print(contest.MARK + json.dumps(measure(asked, int(size))))
        return
    ways = [way for way in WAYS if only in way]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for vocabulary in sizes:
            for way in ways:
                command = [sys.executable, __file__.replace("_loss.py", ".py"), "--loss", "--worker", f"{way}/{vocabulary}"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                line = next((line for line in done.stdout.splitlines() if line.startswith(contest.MARK)), None)
                if line is None:
                    print(f"{way}, {vocabulary}: failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                    continue
                found.setdefault((way, vocabulary), []).append(json.loads(line.removeprefix(contest.MARK)))
                print(f"{way}, {vocabulary}: {_cell(found[way, vocabulary])}", file=sys.stderr, flush=True)
    print(f"{'extra MiB; ms per 1,000 tokens':<54}" + "".join(f"{vocabulary // 1024:>15}k" for vocabulary in sizes))
    for way in ways:
        print(f"{way:<54}" + "".join(f"{_cell(found.get((way, vocabulary), [])):>16}" for vocabulary in sizes))


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
    inputs: Any = (hidden, weight, taught, teacher_weight, labels)
    weights: dict[str, Any] = {"alpha": torch.rand(TOKENS)} if "weights" in way else {}
    second = (torch.randn(TOKENS, WIDTH), torch.randn(vocabulary, WIDTH) / WIDTH**0.5) if "two teachers" in way else None
    if way.startswith("naive"):
        compute: Any = _naive
    elif way.startswith("gradient"):
        kept = [(torch.randn(TOKENS, WIDTH), torch.randn(TOKENS)) for _ in range(1 if second is None else 2)]
        compute, inputs = partial(_cached, **weights), (hidden, weight, kept, labels)
    else:
        objective = next((name for title, name in OBJECTIVES.items() if title in way), "forward_kl")
        compute = partial(_fused, objective=objective, second=second, **weights)
    # Threads, kernels and the library's own buffers are there before the measurement begins.
    _fused(hidden[:8], weight[:8], taught[:8], teacher_weight[:8], labels[:8] % 8).backward()
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


def _fused(
    hidden: Any,
    weight: Any,
    taught: Any,
    teacher_weight: Any,
    labels: Any,
    *,
    objective: str = "forward_kl",
    second: Any = None,
    alpha: Any = ALPHA,
) -> Any:
    from finetune import registry
    from finetune.distillation.teachers.mixture import mixed
    from finetune.training.head import Head
    from finetune.training.loss.chunked import ChunkLogits, chunked_loss

    asked = [("teacher", taught, teacher_weight)] + ([] if second is None else [("second", *second)])
    teachers = [ChunkLogits(name, states, Head(head), TEMPERATURE) for name, states, head in asked]
    rule = mixed(labels, teachers, SHARES[: len(asked)], registry.load("objectives", objective)(), alpha, TEMPERATURE)
    return chunked_loss(hidden, Head(weight), rule, workspace=workspace())


def _cached(hidden: Any, weight: Any, kept: list[tuple[Any, Any]], labels: Any, *, alpha: Any = ALPHA) -> Any:
    from finetune.distillation.loss import CachedGradient
    from finetune.distillation.teachers.mixture import added
    from finetune.training.head import Head
    from finetune.training.loss.chunked import chunked_loss

    head = Head(weight)
    rule = CachedGradient(labels, hidden, head, *added(kept, SHARES[: len(kept)]), alpha, TEMPERATURE)
    return chunked_loss(hidden, head, rule, workspace=workspace())


@cache
def workspace() -> Any:
    """One workspace for all passes, as a trainer keeps one for all steps."""
    from finetune.training.loss.workspace import Workspace

    return Workspace()
