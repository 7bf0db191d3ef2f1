"""From two models to what a distillation trains on: the checks, the teacher run once, a trainer that compares with it.

setup = prepare_distillation(recipe, student, teacher, data, tokenizer, teacher_tokenizer, "gpt2-medium@abc", runtime, reporter)
train(student, tokenizer, data.train, recipe, machine, reporter, folder=folder, make_trainer=setup.trainer)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune import registry
from finetune.data.prepare import PreparedData
from finetune.distillation.cache import TeacherCache, model_identity
from finetune.distillation.cache_builder import build_cache, cache_key, supervised_counts
from finetune.distillation.cache_choice import choose_cache
from finetune.distillation.pair_checks import examine, stop_on_problem
from finetune.distillation.trainer import DistillationTrainer
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.events import Notice, Reporter
from finetune.recipe import DistillationSpec, Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.head import head_of


@dataclass
class DistillationSetup:
    """What the student learns from: a cache, or the teacher itself where there is none."""

    spec: DistillationSpec
    teacher: Any
    cache: TeacherCache | None
    reason: str
    teacher_tokenizer: Any

    def trainer(self, **arguments: Any) -> DistillationTrainer:
        """A trainer for these arguments of a Trainer."""
        return DistillationTrainer(
            teacher_model=self.teacher,
            teacher_tokenizer=self.teacher_tokenizer,
            cache=self.cache,
            temperature=self.spec.temperature,
            alpha=self.spec.alpha,
            objective=self.spec.objective,
            **arguments,
        )


def prepare_distillation(
    recipe: Recipe,
    student: Any,
    teacher: Any,
    data: PreparedData,
    tokenizer: Any,
    teacher_tokenizer: Any,
    teacher_name: str,
    runtime: RuntimeOptions,
    reporter: Reporter,
    *,
    look: bool = True,
) -> DistillationSetup:
    """Check both models (if `look`), then run the teacher over every row and cache its outputs, if they fit on the disk.

    With a cache the setup does not hold the teacher, so its memory can be freed. Raises TrainingError for a problem that a check finds.
    """
    spec = recipe.distillation
    if look:
        findings = examine(student, teacher, data.train, data.held_out, tokenizer=tokenizer, teacher_tokenizer=teacher_tokenizer)
        for finding in findings:
            if finding.level == "warning":
                reporter.report(Notice(f"{finding.text} {finding.hint or ''}".strip(), "warning"))
        stop_on_problem(findings)
    ours, theirs = head_of(student), head_of(teacher)
    tokens = sum(supervised_counts(data.train))
    folder = runtime.cache_dir / "teachers"
    vocabulary = shared_vocabulary(ours.vocabulary, theirs.vocabulary, tokenizer, teacher_tokenizer)
    identity = model_identity(teacher, teacher_name)
    more: dict[str, Any] = {"vocabulary": vocabulary, "student_head": ours, "temperature": spec.temperature}

    @cache
    def place(kind: str) -> Path:
        return folder / cache_key(kind, identity, data.train, **more).digest()

    kinds = registry.names("signals") if folder.is_dir() else []
    present = {kind: sum(file.stat().st_size for file in place(kind).glob("*")) for kind in kinds}
    choice = choose_cache(
        spec.cache, tokens=tokens, student_head=ours, teacher_head=theirs, objective=spec.objective, folder=folder, present=present
    )
    if choice.kind == "none":
        return DistillationSetup(spec, teacher, None, choice.reason, teacher_tokenizer)
    written = build_cache(choice.kind, teacher, data.train, place(choice.kind), teacher_identity=identity, reporter=reporter, **more)
    return DistillationSetup(spec, None, written, choice.reason, None)
