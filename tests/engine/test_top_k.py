"""A teacher's likeliest tokens and the rest as one: the loss against float64 classes written out, whole vocabularies, caches, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pico import Rows, arguments, assert_same_weights, losses, pico, pico_rows
from test_distillation_loss import naive_divergence, objective
from test_engine_chunked_loss import HEADS, LABELS, VOCABULARY, gradients, made, textbook_logits
from torch import Tensor

from finetune import registry
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.loss import Distillation
from finetune.distillation.top_k_loss import TopKLoss, with_rest
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError
from finetune.training.head import head_of
from finetune.training.loss.chunked import ChunkLogits, chunked_loss

ROW = VOCABULARY * 8
BUDGET: dict[str, int] = {"chunk_bytes": ROW * 12, "block_bytes": ROW * 3}
OBJECTIVES = registry.names("objectives")
ROWS = pico_rows(8)


def told(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What a teacher with these logits tells."""
    values, ids = F.log_softmax(logits, -1).topk(k)
    return with_rest(values), ids.int()


def classes(probabilities: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """The distribution over k tokens and the rest, tempered, token by token."""
    found = []
    for row, named in zip(probabilities, ids.tolist(), strict=True):
        others = [token for token in range(len(row)) if token not in named]
        parts = torch.stack([*(row[token] for token in named), *([row[others].sum()] if others else [])])
        found.append(parts ** (1 / temperature) / (parts ** (1 / temperature)).sum())
    return torch.stack(found)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("k", "alpha", "temperature"), [(5, 0.4, 2.0), (1, 0.0, 1.0), (20, 0.3, 0.7)])
def test_the_loss_is_that_of_the_classes_written_out(name: str, k: int, alpha: float, temperature: float) -> None:
    hidden, head = made("everything", torch.float64)
    teacher = 0.5 * textbook_logits(*made("bias", torch.float64, seed=1, width=10)).detach()
    values, ids = told(teacher, k)
    ours = chunked_loss(hidden, head, TopKLoss(LABELS, values, ids, objective(name), alpha, temperature), **BUDGET)
    student = textbook_logits(hidden, head)
    p, q = (classes(F.softmax(logits, -1), ids, temperature) for logits in (student, teacher))
    hard = F.cross_entropy(student, LABELS, reduction="sum")
    theirs = alpha * hard + (1 - alpha) * temperature**2 * naive_divergence(name, p, q).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", HEADS)
def test_of_the_whole_vocabulary_it_is_the_objective_itself_at_every_temperature(name: str, kind: str) -> None:
    hidden, head = made(kind, torch.float64)
    states, of_teacher = made("bias", torch.float64, seed=1, width=10)
    values, ids = told(textbook_logits(states, of_teacher).detach(), VOCABULARY)
    for temperature in (1.0, 3.0):
        whole = ChunkLogits("teacher", states.detach(), of_teacher.detach(), temperature)
        exact = chunked_loss(hidden, head, Distillation(LABELS, whole, objective(name), 0.4, temperature), **BUDGET)
        ours = chunked_loss(hidden, head, TopKLoss(LABELS, values, ids, objective(name), 0.4, temperature), **BUDGET)
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=0)
        for mine, reference in zip(gradients(ours, hidden, head), gradients(exact, hidden, head), strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_student_that_is_the_teacher_has_nothing_to_learn(name: str) -> None:
    hidden, head = made("bias", torch.float64)
    with torch.no_grad():
        hidden.mul_(0.5)
    values, ids = told(textbook_logits(hidden, head).detach(), 6)
    loss = chunked_loss(hidden, head, TopKLoss(LABELS, values, ids, objective(name), 0.0, 2.0), **BUDGET)
    assert loss.item() == pytest.approx(0, abs=1e-8)
    if name != "tvd":  # which has a kink there
        assert all(gradient.abs().max() < 1e-6 for gradient in gradients(loss, hidden, head))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_teacher_that_is_sure_and_a_student_that_contradicts_stay_finite(name: str, sign: int) -> None:
    hidden, head = made("plain", torch.float32)
    states, of_teacher = made("plain", torch.float32, seed=1)
    values, ids = told(sign * 100 * textbook_logits(states, of_teacher).detach().float(), 3)
    loss = chunked_loss(hidden * 100, head, TopKLoss(LABELS, values, ids, objective(name), 0.5, 2.0))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, hidden, head))


def run(folder: Any, **how: Any) -> tuple[Any, DistillationTrainer]:
    """A student after two epochs in random order."""
    settings = {key: how.pop(key) for key in [*how] if key in ("per_device_train_batch_size", "gradient_accumulation_steps")}
    student = pico("llama", dtype=torch.float64)
    more = {"num_train_epochs": 2, "train_sampling_strategy": "sequential", "seed": 3, **settings}
    trainer = DistillationTrainer(student, arguments(folder, **more), train_dataset=Rows(ROWS), **how)
    trainer.train()
    return student, trainer


def teacher_of(vocabulary: int | None = None) -> Any:
    return pico("qwen3", seed=7, dtype=torch.float64, **({"vocab_size": vocabulary} if vocabulary else {}))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_cache_of_all_tokens_trains_as_the_teacher_itself(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.distillation.signals.top_k.TOP_K", 131)
    online, asked = run(tmp_path, teacher_model=teacher_of(), objective=name, alpha=0.3, temperature=2.0)
    cache = build_cache("top_k", teacher_of(), ROWS, tmp_path / "all")
    read, from_disk = run(tmp_path, cache=cache, objective=name, alpha=0.3, temperature=2.0)
    assert losses(from_disk) == pytest.approx(losses(asked), rel=1e-5)
    assert_same_weights(online, read, tolerance=1e-4)  # its log-probabilities are in 32 bits


def test_a_cache_has_what_the_teacher_finds_likeliest_and_a_loss_is_named_approximate(tmp_path: Any) -> None:
    teacher = teacher_of()
    cache = build_cache("top_k", teacher, ROWS, tmp_path / "top")
    assert cache.nbytes < 200 * cache.tokens
    row = ROWS[3]
    values, ids = cache.read([3], [sum(label != -100 for label in row["labels"][1:])])
    with torch.no_grad():
        logits = teacher(torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
    expected = logits[torch.tensor(row["labels"])[1:] != -100].topk(20)
    assert ids is not None
    assert torch.equal(ids.long(), expected.indices)
    torch.testing.assert_close(values[:, :20].double(), expected.values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values.double().exp().sum(-1), torch.ones(len(values), dtype=torch.float64))
    _, trainer = run(tmp_path, cache=cache)
    assert trainer.last_parts.keys() == {"ce", "approximate_kl"}


def test_accumulating_changes_nothing(tmp_path: Any) -> None:
    cache = build_cache("top_k", teacher_of(), ROWS, tmp_path / "top")
    at_once, _ = run(tmp_path, cache=cache, per_device_train_batch_size=4)
    in_parts, _ = run(tmp_path, cache=cache, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert_same_weights(at_once, in_parts, tolerance=1e-9)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"correct": 0.2}, "without what `correct` needs"),
        ({"features": {"last": 0.1}}, "has no hidden states"),
        ({"across_tokenizers": "spans"}, "both tokenizers"),
    ],
)
def test_what_likeliest_tokens_do_not_serve_is_refused(more: dict[str, Any], said: str, tmp_path: Any) -> None:
    cache = build_cache("top_k", teacher_of(), ROWS, tmp_path / "top")
    with pytest.raises(RecipeError, match=said):
        run(tmp_path, cache=cache, **more)


def test_several_teachers_are_refused(tmp_path: Any) -> None:
    cache = build_cache("top_k", teacher_of(), ROWS, tmp_path / "top")
    with pytest.raises(RecipeError, match="one teacher only, and there are several"):
        run(tmp_path, cache=[cache, cache])


def test_no_run_chooses_it_for_a_teacher_on_this_machine() -> None:
    from finetune.distillation.caches.choice import signals_for

    assert "top_k" not in {*signals_for(spans=False), *signals_for(spans=True)}
    signal = registry.load("signals", "top_k")
    assert signal.problem(head_of(pico("gemma2")), False) is None
