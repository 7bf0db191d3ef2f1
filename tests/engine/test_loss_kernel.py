"""The kernel that makes losses and gradients on a GPU, and what calls it; without a GPU a stand-in takes its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from test_distillation_loss import objective
from test_engine_chunked_loss import LABELS, VOCABULARY, made, textbook_logits
from torch import Tensor

from finetune.distillation import loss as distillation_loss
from finetune.distillation.across_tokenizers.spans import span_loss
from finetune.distillation.loss import CachedGradient, Distillation
from finetune.training.loss import chunked as module
from finetune.training.loss import kernel
from finetune.training.loss.chunked import ChunkLogits, CrossEntropy, chunked_loss
from finetune.training.loss.kernel import Found, Targets, softmax_loss_

NO_GPU = not torch.cuda.is_available()


def textbook(logits: Tensor, targets: Targets, *, teacher: Tensor | None, temperature: float, dtype: torch.dtype) -> Found:
    """What the kernel is to give, from torch's own functions; like it, over the logits."""

    def column(weight: Any) -> Any:
        return 0.0 if weight is None else weight[:, None] if isinstance(weight, Tensor) else weight

    soft = logits.softmax(-1) - (0 if teacher is None else teacher.softmax(-1))
    hard = (logits * temperature).softmax(-1) - torch.nn.functional.one_hot(targets.labels, logits.shape[1])
    slope = column(targets.soft) * soft + column(targets.hard) * hard
    divergence = logits.logsumexp(-1)
    if teacher is not None:
        q = teacher.softmax(-1)
        divergence = torch.where(q > 0, q * (teacher.log_softmax(-1) - logits.log_softmax(-1)), 0).sum(-1)
    cross_entropy = torch.nn.functional.cross_entropy(logits * temperature, targets.labels, reduction="none")
    written = logits if dtype == logits.dtype else logits.view(dtype)[:, : logits.shape[1]]
    written.copy_(slope)
    return Found(written, divergence, cross_entropy)


def check(device: str, size: int = 5, vocabulary: int = 300) -> int:
    """The kernel against torch for every combination of what it can be asked; how many there are."""
    draw = torch.Generator().manual_seed(0)
    z, t = (3 * torch.randn(size, vocabulary, generator=draw) for _ in range(2))
    t[:, 7] = -torch.inf  # a token that the teacher does not know
    t[1, : vocabulary // 2] = -torch.inf
    labels = torch.randint(0, vocabulary, (size,), generator=draw)
    weights = (None, 0.7, torch.rand(size, generator=draw))
    tolerances = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
    count = 0
    for temperature, teacher, soft, hard, dtype in product((1.0, 2.0, 3.0), (None, t), weights, weights, tolerances):
        if soft is None and hard is None:
            continue
        targets = Targets(*(each.to(device) if isinstance(each, Tensor) else each for each in (labels, soft, hard)))
        more: dict[str, Any] = {"temperature": temperature, "dtype": dtype}
        there = None if teacher is None else teacher.to(device)
        expected = textbook(z.clone(), Targets(labels, soft, hard), teacher=teacher, **more)
        found = softmax_loss_(z.clone().to(device), targets, teacher=there, **more)
        assert (found.gradient.cpu().float() - expected.gradient.float()).abs().max() < tolerances[dtype]
        if soft is not None:
            torch.testing.assert_close(found.divergence.cpu(), expected.divergence, atol=1e-4, rtol=1e-5)
        if hard is not None:
            torch.testing.assert_close(found.cross_entropy.cpu(), expected.cross_entropy, atol=1e-4, rtol=1e-5)
        count += 1
    return count


@pytest.mark.skipif(NO_GPU, reason="needs a GPU")
def test_on_a_gpu_the_kernel_gives_what_torch_gives() -> None:
    """Three blocks of a row, the last not full; each combination is compiled, which takes longer than everything else."""
    assert check("cuda", vocabulary=20_011) == 144


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_the_interpreted_kernel_gives_what_torch_gives() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = "import test_loss_kernel, finetune.training.loss.kernel as kernel; kernel.BLOCK = 64; print(test_loss_kernel.check('cpu'))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "144", done.stderr[-2000:]


def test_where_no_kernel_can_be_made_there_is_a_reason_and_the_loss_goes_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton; Triton with nothing to compile with, with a compiler that fails, without room, and one that makes nonsense."""

    class TritonError(Exception):
        pass

    tried: Any = kernel.trouble.__wrapped__
    for name in ("triton", "triton.errors"):  # the second may have been imported before
        monkeypatch.setitem(sys.modules, name, None)
    assert tried("cpu") == "Triton is not installed"
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.errors", SimpleNamespace(TritonError=TritonError))
    errors = {
        "Failed to find C compiler.": RuntimeError("Failed to find C compiler.\nand a long story"),
        "Command 'gcc' returned non-zero exit status 1.": subprocess.CalledProcessError(1, "gcc"),
        "too much shared memory": TritonError("too much shared memory"),
        "module 'triton.language' has no attribute 'dot'": AttributeError("module 'triton.language' has no attribute 'dot'"),
    }
    for why, error in errors.items():
        monkeypatch.setattr(kernel, "_kernel", Mock(side_effect=error))
        assert tried("cpu") == why
    monkeypatch.setattr(kernel, "_kernel", lambda: {(1,): lambda *_, **__: None})
    assert tried("cpu") == "the kernel that Triton makes gives wrong numbers"
    for why, used in (("no compiler", False), (None, True)):
        monkeypatch.setattr(kernel, "trouble", lambda why=why: why)
        assert kernel.fuses(torch.device("cuda")) is used
    assert not kernel.fuses(torch.device("cpu"))


@pytest.fixture(params=["stand-in", pytest.param("GPU", marks=pytest.mark.skipif(NO_GPU, reason="needs a GPU"))])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where losses go through the kernel, or on a CPU through what stands in for it."""
    if request.param == "GPU":
        yield "cuda"
        return
    calls = []

    def stand_in(*args: Any, **more: Any) -> Found:
        calls.append(args)
        return textbook(*args, **more)

    for user in (module, distillation_loss):
        monkeypatch.setattr(user, "softmax_loss_", stand_in)
    monkeypatch.setattr(module, "fuses", lambda device: True)
    yield "cpu"
    assert calls


@pytest.mark.parametrize("kind", ["plain", "bias"])
@pytest.mark.parametrize("trains", [True, False])
def test_the_cross_entropy_is_the_textbook_s(device: str, kind: str, trains: bool) -> None:
    (mine, head), reference = on(device, kind, trains=trains and kind == "plain"), made(kind, torch.float32)
    ours = chunked_loss(mine, head, CrossEntropy(LABELS.to(device)), chunk_bytes=VOCABULARY * 4 * 5)
    theirs = torch.nn.functional.cross_entropy(textbook_logits(*reference), LABELS, reduction="sum")
    same(ours, theirs, (mine, head), reference)


ALPHAS = {"one": 0.4, "each": torch.linspace(0, 1, len(LABELS)), "without labels": 0.0}


@pytest.mark.parametrize("cached", [False, True], ids=["asked now", "from a cache"])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_the_distillation_loss_is_the_textbook_s(device: str, temperature: float, alpha: str, cached: bool) -> None:
    (mine, head), reference = on(device, "plain", trains=not cached), made("plain", torch.float32)
    (states, teacher), (teacher_states, teacher_head) = on(device, "bias", seed=1), made("bias", torch.float32, seed=1)
    weight: Any = ALPHAS[alpha]
    labels, share = LABELS.to(device), weight.to(device) if isinstance(weight, Tensor) else weight
    log_q = (textbook_logits(teacher_states, teacher_head).detach() / temperature).log_softmax(-1)
    if cached:
        q = log_q.exp()
        kept = (q @ head.weight.cpu().double()).float().to(device), (q * log_q).sum(-1).float().to(device)
        rule: Any = CachedGradient(labels, mine, head, *kept, share, temperature)
    else:
        logits = ChunkLogits("teacher", states.detach(), teacher, temperature)
        rule = Distillation(labels, logits, objective("forward_kl"), share, temperature)
    ours = chunked_loss(mine, head, rule, chunk_bytes=VOCABULARY * 8 * 5)
    student = textbook_logits(*reference)
    divergence = (log_q.exp() * (log_q - (student / temperature).log_softmax(-1))).sum(-1)
    hard = torch.nn.functional.cross_entropy(student, LABELS, reduction="none")
    same(ours, (weight * hard + (1 - weight) * temperature**2 * divergence).sum(), (mine, head), reference)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_the_loss_of_spans_is_the_textbook_s(device: str, temperature: float) -> None:
    (mine, head), reference = on(device, "plain", trains=True), made("plain", torch.float32)
    spans = torch.arange(len(LABELS)) // 2 - 1  # two tokens each, and two in none
    log_b = torch.linspace(-6, -0.1, int(spans.max()) + 1)
    said = torch.zeros(len(LABELS), 1)
    said[[int((spans == span).nonzero()[-1]) for span in range(len(log_b))], 0] = log_b
    how: dict[str, Any] = {"alpha": 0.3, "temperature": temperature}
    rule = span_loss(LABELS.to(device), mine, head, said.to(device), spans, objective("forward_kl"), **how)
    ours = chunked_loss(mine, head, rule, chunk_bytes=VOCABULARY * 4 * 5)
    log_p = textbook_logits(*reference).log_softmax(-1).gather(1, LABELS[:, None])[:, 0]
    log_a = log_p.new_zeros(len(log_b)).index_add(0, spans[spans >= 0], log_p[spans >= 0])
    a, b = (log_a / temperature).exp(), (log_b / temperature).exp()
    divergence = b * (b / a).log() + (1 - b) * ((1 - b) / (1 - a)).log()
    hard = -(log_p * torch.where(spans >= 0, 0.3, 1.0)).sum()
    same(ours, hard + 0.7 * temperature * divergence.sum(), (mine, head), reference)


def on(device: str, kind: str, *, trains: bool = False, seed: int = 0) -> tuple[Tensor, Any]:
    """Hidden states, with gradients, and a head."""
    hidden, head = made(kind, torch.float32, seed=seed)
    return hidden.detach().to(device).requires_grad_(), moved(head, device, trains=trains)


def moved(head: Any, device: str, *, trains: bool) -> Any:
    tensors = [None if each is None else each.detach().to(device).requires_grad_(trains) for each in (head.weight, head.bias)]
    return type(head)(tensors[0], tensors[1], head.scale, head.softcap)


def same(ours: Tensor, theirs: Any, mine: tuple[Tensor, Any], reference: tuple[Tensor, Any]) -> None:
    torch.testing.assert_close(ours.detach().cpu(), theirs.detach().float(), rtol=1e-4, atol=1e-4)
    ours.backward()
    theirs.backward()
    pairs = [(mine[0], reference[0]), (mine[1].weight, reference[1].weight)]
    for one, other in pairs:
        if one.requires_grad:
            torch.testing.assert_close(one.grad.cpu(), other.grad.to(one.dtype), rtol=1e-3, atol=1e-4 * float(other.grad.abs().max()))
