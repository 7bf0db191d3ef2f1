"""A cache that a thread reads while the student's layers are at work: the same steps, and what was begun is not read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pico import Rows, arguments, assert_same_weights, losses, pico, pico_rows

from finetune.distillation.caches.builder import build_cache
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.caches.read_ahead import ReadAhead
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import TrainingError
from finetune.training.head import head_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    return build_cache("hidden", pico("llama", seed=7), pico_rows(12), tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("halves", [False, True], ids=["whole batches", "batches in parts"])
def test_training_is_the_same_with_a_cache_read_ahead(
    cache: TeacherCache, halves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, ...]] = []
    of_the_cache = cache.read
    monkeypatch.setattr(cache, "read", lambda rows, *more: read.append(tuple(rows)) or of_the_cache(rows, *more))

    def trained(*, ahead: bool) -> Any:
        settings = arguments(tmp_path, gradient_accumulation_steps=2)
        trainer = DistillationTrainer(model=pico("llama"), cache=cache, args=settings, train_dataset=Rows(pico_rows(12)))
        if halves:
            trainer.micro_batches.rows = 2
        if ahead:
            trainer.teachers[0].ahead = ReadAhead(cache)
        monkeypatch.setattr("finetune.training.trainer.CPU_TOKENS", 10**6)  # a GPU makes no pieces
        trainer.train()
        return trainer

    usual, ahead = trained(ahead=False), trained(ahead=True)
    assert losses(usual) == losses(ahead)
    assert_same_weights(usual.model, ahead.model, tolerance=0)
    assert len(read) > 0


def test_each_of_two_teachers_is_read_ahead_of_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, of = pico_rows(12), [0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1]
    own = [[row for row, number in zip(rows, of, strict=True) if number == teacher] for teacher in range(2)]
    caches = [build_cache("hidden", pico("llama", seed=7 + number), each, tmp_path / str(number)) for number, each in enumerate(own)]

    def trained(*, ahead: bool) -> Any:
        settings = arguments(tmp_path, gradient_accumulation_steps=2)
        trainer = DistillationTrainer(pico("llama"), settings, cache=caches, teacher_rows=of, train_dataset=Rows(rows))
        if ahead:
            for teacher, cache in zip(trainer.teachers, caches, strict=True):
                teacher.ahead = ReadAhead(cache)
                monkeypatch.setattr(teacher.ahead, "cache", None)  # whatever was not begun cannot be read any more
                monkeypatch.setattr(teacher.ahead, "_pinned", cache.read)
        monkeypatch.setattr("finetune.training.trainer.CPU_TOKENS", 10**6)
        monkeypatch.setattr(trainer, "_parts", lambda inputs, _: [inputs])  # a GPU makes no pieces
        trainer.train()
        return trainer

    usual, ahead = trained(ahead=False), trained(ahead=True)
    assert losses(usual) == losses(ahead)
    assert_same_weights(usual.model, ahead.model, tolerance=0)


def test_where_there_is_a_gpu_what_was_read_ahead_is_in_memory_that_it_copies_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    student = pico("llama", seed=2)
    fixed: dict[str, Any] = {"student_head": head_of(student), "temperature": 2.0}
    cache = build_cache("gradient", pico("llama", seed=7), pico_rows(12), tmp_path, **fixed)
    ahead, count = ReadAhead(cache), sum(label != -100 for label in pico_rows(12)[3]["labels"][1:])
    ahead.begin([([3], [count], ())])
    assert all(part is tensor for part, tensor in zip(ahead.read([3], [count]), pinned, strict=True))


def test_what_was_begun_is_read_once_and_another_step_forgets_it(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, read, of_the_cache = ReadAhead(cache), [], cache.read
    monkeypatch.setattr(cache, "read", lambda rows, *more: read.append(list(rows)) or of_the_cache(rows, *more))
    counts = [sum(label != -100 for label in row["labels"][1:]) for row in pico_rows(12)]
    ahead.begin([([0, 1], counts[:2], ()), ([2], counts[2:3], ())])
    (values,) = ahead.read([2], counts[2:3])
    assert (values == of_the_cache([2], counts[2:3])[0]).all()
    ahead.begin([])
    ahead.read([0, 1], counts[:2])
    assert read == [[0, 1], [2], [0, 1]]


def test_a_cache_of_other_rows_is_refused_where_it_is_used(cache: TeacherCache) -> None:
    ahead = ReadAhead(cache)
    ahead.begin([([0], [10_000], ())])
    with pytest.raises(TrainingError, match="supervised tokens"):
        ahead.read([0], [10_000])
