"""Scores of the models a run starts from, measured once per model and rows and kept in the user's cache.

scores = base_scores(tuner, model)
scores = teacher_scores(tuner, teacher)       # with the states that a student is compared with
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.benchmark.perplexity import answer_losses
from finetune.benchmark.scoring import (
    Scores,
    base_key,
    benchmark_model,
    chosen_rows,
    load_base_scores,
    save_base_scores,
)
from finetune.benchmark.teacher_agreement import TeacherStates
from finetune.events import Notice
from finetune.training.head import head_of

if TYPE_CHECKING:
    from finetune.run.finetuner import LLMFineTuner


def measure(tuner: LLMFineTuner, model: Any, stage: str, **options: Any) -> Scores:
    """Score a model on the run's held-out rows."""
    return benchmark_model(
        model,
        tuner.tokenizer,
        tuner.data.held_out,
        tuner.recipe.benchmark,
        seed=tuner.recipe.seed,
        reporter=tuner.reporter,
        stage=stage,
        **options,
    )


def base_scores(tuner: LLMFineTuner, model: Any) -> Scores:
    """The scores of the model that is fine-tuned, before."""
    return _once(tuner, model, tuner.located.identity, tuner.method.load_in(tuner.recipe.method), "before", "Measuring the base model")


def teacher_scores(tuner: LLMFineTuner, teacher: Any) -> Scores:
    """The teacher's scores, and its hidden states on the held-out rows (those are never kept on disk)."""
    assert tuner.recipe.teacher is not None
    load_in = tuner.recipe.teacher.load_in
    scores = _once(tuner, teacher, tuner.teacher_located.identity, load_in, "teacher", "Measuring the teacher", as_teacher=True)
    if scores.states is not None:
        return scores
    states = TeacherStates(head_of(teacher).detach())
    rows = chosen_rows(tuner.data.held_out, tuner.recipe.benchmark, tuner.recipe.seed)
    answer_losses(teacher, rows, reporter=tuner.reporter, stage="teacher", remember=states)
    return replace(scores, states=states)


def _once(tuner: LLMFineTuner, model: Any, identity: str, load_in: str | None, stage: str, title: str, **options: Any) -> Scores:
    kept = known_scores(tuner, identity, load_in)
    if kept is not None:
        tuner.reporter.report(Notice(f"{title}: known from an earlier run on the same rows."))
        return kept
    with tuner.stage(stage, title):
        scores = measure(tuner, model() if callable(model) and not hasattr(model, "parameters") else model, stage, **options)
    save_base_scores(tuner.runtime, _key(tuner, identity, load_in), scores)
    return scores


def known_scores(tuner: LLMFineTuner, identity: str, load_in: str | None) -> Scores | None:
    """The scores that an earlier run on the same rows has kept of a model, or None."""
    return load_base_scores(tuner.runtime, _key(tuner, identity, load_in))


def _key(tuner: LLMFineTuner, identity: str, load_in: str | None) -> str:
    machine, recipe = tuner.machine, tuner.recipe
    dtype = f"{machine.device} {machine.dtype} {load_in}"
    return base_key(identity, tuner.data.fingerprint, recipe.benchmark, seed=recipe.seed, dtype=dtype)
