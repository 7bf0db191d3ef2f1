"""Proof 1: the fused distillation losses against naive float64 references with full logits, written from the papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_engine_chunked_loss import HEADS, LABELS, VOCABULARY, gradients, made, textbook_logits
from torch import Tensor

from finetune import registry
from finetune.distillation.loss import CachedGradient, Distillation
from finetune.training.loss.chunked import ChunkLogits, CrossEntropy, chunked_loss

ROW = VOCABULARY * 8


def kl(first: Tensor, second: Tensor) -> Tensor:
    return (first * (first.log() - second.log())).sum(-1)


def naive_divergence(name: str, p: Tensor, q: Tensor) -> Tensor:
    """D per token of student p and teacher q, as each paper defines it."""
    if name in ("forward_kl", "taid"):  # outside a training TAID has reached its teacher
        return kl(q, p)
    if name == "reverse_kl":
        return kl(p, q)
    if name == "forward_reverse_kl":
        return 0.5 * ((p - q) * (p / q).log()).sum(-1)
    if name == "jsd":
        mix = 0.5 * q + 0.5 * p
        return 0.5 * kl(q, mix) + 0.5 * kl(p, mix)
    if name == "skew_forward_kl":
        return kl(q, 0.1 * q + 0.9 * p)
    if name == "skew_reverse_kl":
        return kl(p, 0.9 * q + 0.1 * p)
    if name == "tvd":
        return 0.5 * (p - q).abs().sum(-1)
    raise AssertionError(name)


def naive_loss(name: str, student: Tensor, teacher: Tensor, alpha: float, temperature: float) -> Tensor:
    p, q = F.softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    hard = F.cross_entropy(student, LABELS, reduction="sum")
    return alpha * hard + (1 - alpha) * temperature**2 * naive_divergence(name, p, q).sum()


def objective(name: str) -> Any:
    return registry.load("objectives", name)()


def fused(name, hidden, head, teacher_hidden, teacher_head, alpha, temperature, **budget) -> Tensor:
    teacher = ChunkLogits("teacher", teacher_hidden, teacher_head, temperature)
    return chunked_loss(hidden, head, Distillation(LABELS, teacher, objective(name), alpha, temperature), **budget)


@pytest.mark.parametrize("name", registry.BUILT_IN["objectives"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.3, 1.0), (0.8, 3.3), (0.0, 2.0), (0.5, 0.7)])
def test_every_objective_is_the_textbook_one(name: str, alpha: float, temperature: float) -> None:
    hidden, head = made("plain", torch.float64)
    teacher_hidden, teacher_head = made("bias", torch.float64, seed=1, width=10)
    ours = fused(
        name, hidden, head, teacher_hidden.detach(), teacher_head.detach(), alpha, temperature, chunk_bytes=ROW * 10, block_bytes=ROW * 2
    )
    theirs = naive_loss(name, textbook_logits(hidden, head), textbook_logits(teacher_hidden, teacher_head).detach(), alpha, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("done", [0.0, 0.35, 1.0])
def test_taid_is_forward_kl_to_the_mix_of_logits(done: float) -> None:
    hidden, head = made("plain", torch.float64)
    teacher_hidden, teacher_head = made("bias", torch.float64, seed=1, width=10)
    taid = objective("taid")
    taid.at(done)
    theirs = ChunkLogits("teacher", teacher_hidden.detach(), teacher_head.detach(), 2.0)
    ours = chunked_loss(hidden, head, Distillation(LABELS, theirs, taid, 0.3, 2.0), chunk_bytes=ROW * 10, block_bytes=ROW * 2)
    student, teacher = textbook_logits(hidden, head), textbook_logits(teacher_hidden, teacher_head).detach()
    tau = 0.4 + 0.6 * done
    target = F.softmax(((1 - tau) * student.detach() + tau * teacher) / 2.0, -1)
    expected = 0.3 * F.cross_entropy(student, LABELS, reduction="sum") + 0.7 * 4 * kl(target, F.softmax(student / 2.0, -1)).sum()
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(expected, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("student", HEADS)
@pytest.mark.parametrize("teacher", HEADS)
def test_every_kind_of_head_on_both_sides(student: str, teacher: str) -> None:
    hidden, head = made(student, torch.float64)
    teacher_hidden, teacher_head = made(teacher, torch.float64, seed=1, width=10)
    ours = fused("forward_kl", hidden, head, teacher_hidden.detach(), teacher_head.detach(), 0.4, 2.0, chunk_bytes=ROW * 14)
    theirs = naive_loss("forward_kl", textbook_logits(hidden, head), textbook_logits(teacher_hidden, teacher_head).detach(), 0.4, 2.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("student_ids", "teacher_ids"), [(VOCABULARY + 7, VOCABULARY), (VOCABULARY, VOCABULARY + 7)])
def test_padded_vocabularies_are_cut_to_the_shared_ids(student_ids: int, teacher_ids: int) -> None:
    hidden, head = made("bias", torch.float64, vocabulary=student_ids)
    teacher_hidden, teacher_head = made("bias", torch.float64, seed=1, vocabulary=teacher_ids)
    ours = fused("forward_kl", hidden, head.first(VOCABULARY), teacher_hidden.detach(), teacher_head.detach().first(VOCABULARY), 0.5, 2.0)
    student, teacher = textbook_logits(hidden, head)[:, :VOCABULARY], textbook_logits(teacher_hidden, teacher_head)[:, :VOCABULARY].detach()
    theirs = naive_loss("forward_kl", student, teacher, 0.5, 2.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_the_gradient_is_the_slope_of_the_value(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(4, 9, generator=generator, dtype=torch.float64) * 2 for _ in range(2))

    def value_and_gradient(logits: Tensor) -> tuple[Tensor, Tensor]:
        p, q = F.softmax(logits, -1), F.softmax(teacher, -1)
        value = objective(name)(p, q.clone(), p.log() - q.log() - 0.25, torch.full((len(p), 1), 0.25, dtype=p.dtype))
        return value, p

    _, gradient = value_and_gradient(student)
    step = 1e-5
    for place in ((0, 0), (1, 5), (3, 8)):
        up, down = student.clone(), student.clone()
        up[place] += step
        down[place] -= step
        slope = (value_and_gradient(up)[0] - value_and_gradient(down)[0]) / (2 * step)
        assert gradient[place] == pytest.approx(float(slope), abs=1e-9)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name: str) -> None:
    hidden, head = made("bias", torch.float64)
    loss = fused(name, hidden, head, hidden.detach(), head.detach(), 0.0, 2.0)
    assert abs(float(loss.detach())) < 1e-12
    assert all(gradient.abs().max() < 1e-12 for gradient in gradients(loss, hidden, head))


@pytest.mark.parametrize("name", registry.names("objectives"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_confident_and_contrary_models_stay_finite(name: str, dtype: torch.dtype) -> None:
    hidden, head = made("plain", dtype)
    teacher_hidden, teacher_head = made("plain", dtype, seed=1)
    loss = fused(name, hidden * 100, head, -100 * teacher_hidden.detach(), teacher_head.detach(), 0.5, 2.0)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, hidden, head))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_every_precision_stays_within_its_rounding(dtype: torch.dtype, tolerance: float) -> None:
    hidden, head = made("soft cap", dtype)
    teacher_hidden, teacher_head = made("bias", dtype, seed=1)
    ours = fused("forward_kl", hidden, head, teacher_hidden.detach(), teacher_head.detach(), 0.5, 2.0)
    theirs = naive_loss("forward_kl", textbook_logits(hidden, head), textbook_logits(teacher_hidden, teacher_head).detach(), 0.5, 2.0)
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        assert (mine - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("kind", ["plain", "bias", "scale"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.2, 1.0), (0.0, 3.0)])
def test_the_gradient_cache_formula_is_forward_kl(kind: str, alpha: float, temperature: float) -> None:
    hidden, head = made(kind, torch.float64)
    head = head.detach()
    teacher_hidden, teacher_head = made("soft cap", torch.float64, seed=1)
    teacher = textbook_logits(teacher_hidden, teacher_head).detach()
    q = F.softmax(teacher / temperature, -1)
    negentropy = (q * q.log()).sum(-1) - (0 if head.bias is None else q @ head.bias * head.scale / temperature)
    ours = chunked_loss(
        hidden, head, CachedGradient(LABELS, hidden, head, q @ head.weight, negentropy, alpha, temperature), chunk_bytes=ROW * 9
    )
    theirs = naive_loss("forward_kl", textbook_logits(hidden, head), teacher, alpha, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    (mine,), (reference,) = torch.autograd.grad(ours, hidden), torch.autograd.grad(theirs, hidden)
    torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


def test_the_parts_are_the_unweighted_terms() -> None:
    hidden, head = made("plain", torch.float64)
    teacher_hidden, teacher_head = made("plain", torch.float64, seed=1)
    rule = Distillation(
        LABELS, ChunkLogits("teacher", teacher_hidden.detach(), teacher_head.detach(), 2.0), objective("forward_kl"), 0.3, 2.0
    )
    chunked_loss(hidden, head, rule)
    student, teacher = textbook_logits(hidden, head).detach(), textbook_logits(teacher_hidden, teacher_head).detach()
    assert float(rule.sums["ce"]) == pytest.approx(float(naive_loss("forward_kl", student, teacher, 1.0, 2.0)))
    assert float(rule.sums["kl"]) == pytest.approx(float(naive_loss("forward_kl", student, teacher, 0.0, 2.0)) / 4)


ALPHAS = torch.tensor([0.0, 1.0, 0.3, 1.0, 0.9, 0.0, 0.5], dtype=torch.float64).repeat(4)[: len(LABELS)]


def naive_of_tokens(name: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = F.softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    hard = F.cross_entropy(student, LABELS, reduction="none")
    return (ALPHAS * hard + (1 - ALPHAS) * temperature**2 * naive_divergence(name, p, q)).sum()


@pytest.mark.parametrize("name", registry.BUILT_IN["objectives"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.3])
@pytest.mark.parametrize("kind", ["bias", "soft cap"])
def test_tokens_with_an_alpha_of_their_own(name: str, temperature: float, kind: str) -> None:
    hidden, head = made(kind, torch.float64)
    teacher_hidden, teacher_head = made("bias", torch.float64, seed=1, width=10)
    teacher = ChunkLogits("teacher", teacher_hidden.detach(), teacher_head.detach(), temperature)
    rule = Distillation(LABELS, teacher, objective(name), ALPHAS, temperature)
    ours = chunked_loss(hidden, head, rule, chunk_bytes=ROW * 10, block_bytes=ROW * 3)
    theirs = naive_of_tokens(name, textbook_logits(hidden, head), textbook_logits(teacher_hidden, teacher_head).detach(), temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["plain", "bias"])
def test_tokens_with_an_alpha_of_their_own_from_a_gradient_cache(kind: str) -> None:
    hidden, head = made(kind, torch.float64)
    head, temperature = head.detach(), 2.0
    teacher = textbook_logits(*made("soft cap", torch.float64, seed=1)).detach()
    q = F.softmax(teacher / temperature, -1)
    negentropy = (q * q.log()).sum(-1) - (0 if head.bias is None else q @ head.bias * head.scale / temperature)
    rule = CachedGradient(LABELS, hidden, head, q @ head.weight, negentropy, ALPHAS, temperature)
    ours, theirs = chunked_loss(hidden, head, rule), naive_of_tokens("forward_kl", textbook_logits(hidden, head), teacher, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    (mine,), (reference,) = torch.autograd.grad(ours, hidden), torch.autograd.grad(theirs, hidden)
    torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["forward_kl", "jsd"])
def test_an_objective_that_only_knows_sums_is_asked_token_by_token(name: str) -> None:
    hidden, head = made("plain", torch.float64)
    teacher_hidden, teacher_head = made("bias", torch.float64, seed=1, width=10)

    def loss(compare) -> Tensor:
        teacher = ChunkLogits("teacher", teacher_hidden.detach(), teacher_head.detach(), 2.0)
        return chunked_loss(hidden, head, Distillation(LABELS, teacher, compare, ALPHAS, 2.0))

    ours, theirs = loss(lambda p, q, ratio, shift: objective(name)(p, q, ratio, shift)), loss(objective(name))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_of_alpha_one_hears_nothing_of_its_teacher(dtype: torch.dtype) -> None:
    hidden, head = made("plain", dtype)
    teacher_hidden, teacher_head = made("plain", dtype, seed=1)
    one = torch.ones(len(LABELS))

    def gradient(states: Tensor) -> list[Tensor]:
        rule = Distillation(LABELS, ChunkLogits("teacher", states, teacher_head.detach(), 2.0), objective("forward_kl"), one, 2.0)
        return gradients(chunked_loss(hidden, head, rule), hidden, head)

    ours, plain = gradient(teacher_hidden.detach() * 100), gradients(chunked_loss(hidden, head, CrossEntropy(LABELS)), hidden, head)
    for mine, reference in zip(ours, plain, strict=True):
        assert (mine - reference).abs().max() <= (1e-5 if dtype == torch.float32 else 0.02) * reference.abs().max()
