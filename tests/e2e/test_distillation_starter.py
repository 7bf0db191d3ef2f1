"""Proof 5: on the real starter model, a student cut out of it comes closer to it on rows neither has trained on."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainingArguments

from finetune.benchmark.imitation import TeacherStates
from finetune.benchmark.perplexity import AnswerLosses, answer_losses
from finetune.data.prepare import prepare_data
from finetune.distillation.choice import choose_cache
from finetune.distillation.doctor import examine, stop_on_problem
from finetune.distillation.student import make_student
from finetune.distillation.teaching import build_cache, supervised_counts
from finetune.distillation.trainer import DistillationTrainer
from finetune.events import Recorder
from finetune.models.load import load_model, load_tokenizer
from finetune.models.machine import inspect
from finetune.models.sources import locate
from finetune.recipe import STARTER, DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.training.head import head_of


def whole(rows: Any) -> list[dict[str, list[int]]]:
    """Rows whose every token counts: the teacher has something to say everywhere."""
    return [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows]


def test_the_student_of_the_starter_model_comes_closer_to_it(tmp_path) -> None:
    runtime, reporter = RuntimeOptions(dtype="float32"), Recorder()
    machine, located = inspect(runtime), locate(STARTER, runtime, reporter)
    tokenizer, teacher = load_tokenizer(located), load_model(located, machine, dtype=torch.float32)
    spec = DatasetSpec(source="builtin:python-docs", samples=56, max_length=112)
    data = prepare_data(spec, tokenizer, seed=1, supervise="all", runtime=runtime, reporter=reporter)
    held_out = whole(data.held_out)

    student = make_student(teacher, 0.8, data.train, reporter=reporter)
    student.get_output_embeddings().weight.requires_grad_(False)
    stop_on_problem(examine(student, teacher, data.train, held_out, tokenizer=tokenizer, teacher_tokenizer=tokenizer))
    ours, theirs = head_of(student), head_of(teacher)
    tokens = sum(supervised_counts(data.train))
    choice = choose_cache("auto", tokens=tokens, student_head=ours, teacher_head=theirs, objective="forward_kl", folder=tmp_path)
    assert choice.kind == "gradient"
    cache = build_cache("gradient", teacher, data.train, tmp_path / "cache", student_head=ours, temperature=2.0)
    states, quiet = TeacherStates(theirs.detach()), {"reporter": reporter, "stage": "benchmark"}
    answer_losses(teacher, held_out, remember=states, **quiet)
    before = answer_losses(student, held_out, teacher=states, **quiet)

    settings = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=machine.gflops.get("bfloat16", 0) > machine.gflops["float32"],
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=3e-4,
        warmup_steps=2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = DistillationTrainer(
        model=student, cache=cache, alpha=0.1, temperature=2.0, args=settings, train_dataset=data.train, processing_class=tokenizer
    )
    trainer.train()
    after = answer_losses(student.eval(), held_out, teacher=states, **quiet)

    assert trainer.supervised_tokens == tokens
    assert sum(after.divergences) < 0.75 * sum(before.divergences)
    assert sum(after.agreed) > sum(before.agreed)
    assert perplexity(after) < perplexity(before)


def perplexity(losses: AnswerLosses) -> float:
    return math.exp(sum(losses.sums) / sum(losses.tokens))
