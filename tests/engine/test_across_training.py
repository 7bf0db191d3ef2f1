"""Training on a teacher with another tokenizer: the formula, one loss for all caches, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pico import Rows, arguments, assert_same_weights, losses
from test_across_projected import OURS, THEIRS, naive, rows_of, sized
from test_distillation_trainer import textbook as plain_textbook

from finetune import registry
from finetune.data.tokens.collator import Collator
from finetune.distillation.across_tokenizers.alignment import Alignment
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.across_tokenizers.ways import WAYS
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.caches.choice import signals_for
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError, VocabularyMismatch
from finetune.training.head import head_of

ROWS = rows_of(OURS) * 2
READING = Reading(Alignment(OURS, THEIRS), len(OURS))


def distiller(student: Any, folder: Any, *, ours: Any = OURS, theirs: Any = THEIRS, rows: Any = None, **changes: Any) -> Any:
    names = ("teacher_model", "teacher_rows", "cache", "objective", "temperature", "alpha")
    own = {"across_tokenizers": "projected", **{name: changes.pop(name) for name in (*names, "across_tokenizers") if name in changes}}
    return DistillationTrainer(
        student,
        arguments(folder, **changes),
        train_dataset=Rows(rows or ROWS),
        processing_class=ours,
        teacher_tokenizer=theirs,
        **own,
    )


def textbook(student: Any, teacher: Any, rows: list[dict[str, Any]], alpha: float, temperature: float) -> torch.Tensor:
    """alpha CE + (1 - alpha) T^2 KL(q^ || p) where the two have read the same, CE elsewhere; each row alone, with full logits."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        read = READING.alignment.row(row["input_ids"])
        ours = student(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        with torch.no_grad():
            states = teacher.model(input_ids=torch.tensor([read.ids])).last_hidden_state[0]
        for place, label in enumerate(row["labels"][1:]):
            if label == -100:
                continue
            hard = F.cross_entropy(ours[place], torch.tensor(label))
            at, count = read.places[place], count + 1
            if at < 0:
                total = total + hard
                continue
            q = naive(states[at : at + 1], head_of(teacher), READING.alignment.target.tolist(), len(OURS), temperature)[0]
            log_p = F.log_softmax(ours[place] / temperature, -1)
            total = total + alpha * hard + (1 - alpha) * temperature**2 * (torch.special.xlogy(q, q) - q * log_p).sum()
    return total / count


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.3, 2.0), (0.5, 3.0)])
def test_the_loss_and_its_gradient_are_those_of_the_formula(alpha: float, temperature: float, tmp_path) -> None:
    student, teacher = sized(OURS, dtype=torch.float64), sized(THEIRS, seed=3, dtype=torch.float64)
    trainer = distiller(student, tmp_path, teacher_model=teacher, alpha=alpha, temperature=temperature)
    loss = trainer.compute_loss(student, Collator(0)(ROWS))
    expected = textbook(student, teacher, ROWS, alpha, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    parameters = list(student.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("cached", [False, True])
def test_of_routed_teachers_one_may_have_another_tokenizer(cached: bool, tmp_path) -> None:
    student, rows = sized(OURS, dtype=torch.float64), [[0, 1, 1, 0, 1, 1][number % 6] for number in range(len(ROWS))]
    teachers = [sized(OURS, seed=5, dtype=torch.float64), sized(THEIRS, seed=3, dtype=torch.float64)]
    own = [[row for row, number in zip(ROWS, rows, strict=True) if number == teacher] for teacher in (0, 1)]
    counts = [sum(label != -100 for row in part for label in row["labels"][1:]) for part in own]
    parts = plain_textbook(student, teachers[0], own[0], 0.3, 2.0), textbook(student, teachers[1], own[1], 0.3, 2.0)
    expected = sum(count * part for count, part in zip(counts, parts, strict=True)) / sum(counts)
    slopes = torch.autograd.grad(expected, list(student.parameters()))
    before = [parameter.detach().clone() for parameter in student.parameters()]
    given: dict[str, Any] = {"teacher_model": teachers}
    if cached:
        how = zip(teachers, own, (None, READING), strict=True)
        given = {"cache": [build_cache("hidden", one, part, tmp_path / str(len(part)), reading=reading) for one, part, reading in how]}
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": len(ROWS), "alpha": 0.3, "teacher_rows": rows}
    trainer = distiller(student, tmp_path, theirs=[OURS, THEIRS], temperature=2.0, **settings, **given)
    trainer.train()
    assert losses(trainer) == pytest.approx([float(expected.detach())], rel=1e-6)
    for parameter, old, slope in zip(student.parameters(), before, slopes, strict=True):
        torch.testing.assert_close(old - parameter.detach(), 0.05 * slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", signals_for(spans=False))
def test_a_cache_trains_as_the_teacher_itself(kind: str, tmp_path) -> None:
    def trained(**given: Any) -> Any:
        student = sized(OURS, dtype=torch.float64)
        for module in (student.get_input_embeddings(), student.get_output_embeddings()):
            module.requires_grad_(False)
        trainer = distiller(student, tmp_path, alpha=0.3, num_train_epochs=2, **given)
        trainer.train()
        return trainer

    teacher = sized(THEIRS, seed=3, dtype=torch.float64)
    student_head = head_of(sized(OURS, dtype=torch.float64)).detach()
    cache = build_cache(kind, teacher, ROWS, tmp_path / kind, student_head=student_head, temperature=2.0, reading=READING)
    online, cached = trained(teacher_model=teacher), trained(cache=cache)
    assert losses(online)[0] > losses(online)[-1]
    assert losses(cached) == pytest.approx(losses(online), rel=1e-6)
    assert cached.last_parts == pytest.approx(online.last_parts, rel=1e-6)
    assert_same_weights(online.model, cached.model, tolerance=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_with_a_cache_each_row_is_aligned_once_and_any_batch_as_at_once(way: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = WAYS[way](READING.alignment, len(OURS))
    for numbers in ([3, 1, 4], [1, 5, 0, 3], [2, 4]):
        batch = Collator(0)([ROWS[number] for number in numbers])
        assert torch.equal(reading.where(numbers, batch), reading.batch(batch).where)
    kind = "spans" if way == "spans" else "hidden"
    cache = build_cache(kind, sized(THEIRS, seed=3), ROWS, tmp_path / "cache", reading=reading)
    read: list[int] = []
    usual = Alignment.row
    monkeypatch.setattr(Alignment, "row", lambda self, ids: read.append(1) or usual(self, ids))
    distiller(sized(OURS), tmp_path, cache=cache, across_tokenizers=way, num_train_epochs=3).train()
    assert len(read) == len(ROWS)


@pytest.mark.parametrize("objective", registry.BUILT_IN["objectives"])
def test_every_objective_sees_the_projected_teacher(objective: str, tmp_path) -> None:
    student, teacher = sized(OURS), sized(THEIRS, seed=3)
    trainer = distiller(student, tmp_path, teacher_model=teacher, objective=objective, alpha=0.0, num_train_epochs=8, learning_rate=0.003)
    before = trainer.evaluate(Rows(ROWS))["eval_kl"]
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    assert trainer.evaluate(Rows(ROWS))["eval_kl"] < before


def test_the_divergence_that_is_shown_is_that_of_the_aligned_tokens(tmp_path) -> None:
    student, teacher = sized(OURS, dtype=torch.float64), sized(THEIRS, seed=3, dtype=torch.float64)
    trainer = distiller(student, tmp_path, teacher_model=teacher, alpha=0.0, temperature=1.0, rows=ROWS[:1])
    trainer.train()
    shown = trainer.last_parts
    asked = READING.batch(Collator(0)(ROWS[:1]))
    before = sized(OURS, dtype=torch.float64)
    whole = textbook(before, teacher, ROWS[:1], 0.0, 1.0)
    row = ROWS[0]
    logits = before(input_ids=torch.tensor([row["input_ids"]])).logits[0, 1:-1]
    hard = F.cross_entropy(logits, torch.tensor(row["labels"][2:]), reduction="none")
    assert len(hard) == len(asked.aligned)
    assert shown["kl"] == pytest.approx(float((whole - hard[~asked.aligned].sum() / len(hard)).detach()), rel=1e-9)


def test_equal_tokenizers_train_exactly_as_without_the_setting(tmp_path) -> None:
    def trained(**given: Any) -> Any:
        student, teacher = sized(OURS), sized(OURS, seed=3)
        DistillationTrainer(
            student,
            arguments(tmp_path),
            teacher_model=teacher,
            train_dataset=Rows(ROWS),
            processing_class=OURS,
            teacher_tokenizer=OURS,
            **given,
        ).train()
        return student

    assert_same_weights(trained(), trained(across_tokenizers="projected"), tolerance=0)


def test_the_reading_of_the_same_tokenizer_gives_forward_kl(tmp_path) -> None:
    """Also where nothing is taken as equal: through the alignment and M."""
    student, teacher = sized(OURS, dtype=torch.float64), sized(OURS, seed=3, dtype=torch.float64)
    plain = DistillationTrainer(student, arguments(tmp_path), teacher_model=teacher, train_dataset=Rows(ROWS))
    expected = plain.compute_loss(student, Collator(0)(ROWS))
    plain.teachers[0].reading = Reading(Alignment(OURS, OURS), len(OURS))
    torch.testing.assert_close(plain.compute_loss(student, Collator(0)(ROWS)), expected, rtol=1e-12, atol=0)


def test_without_the_setting_another_tokenizer_is_refused_and_the_hint_names_it(tmp_path) -> None:
    with pytest.raises(VocabularyMismatch, match="do not share a tokenizer") as error:
        DistillationTrainer(
            sized(OURS),
            arguments(tmp_path),
            teacher_model=sized(THEIRS),
            processing_class=OURS,
            teacher_tokenizer=THEIRS,
            train_dataset=Rows(ROWS),
        )
    assert "across_tokenizers=projected" in str(error.value.hint)


def test_reading_across_tokenizers_needs_both(tmp_path) -> None:
    with pytest.raises(RecipeError, match="needs both tokenizers"):
        distiller(sized(OURS), tmp_path, teacher_model=sized(THEIRS), theirs=None)
