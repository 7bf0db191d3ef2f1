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
from finetune.data.system_prompt import TeacherRows, is_prompted
from finetune.distillation.cache import TeacherCache, model_identity
from finetune.distillation.cache_builder import build_cache, cache_key, supervised_counts
from finetune.distillation.cache_choice import choose_cache
from finetune.distillation.itself import Itself, as_teacher
from finetune.distillation.pair_checks import examine, stop_on_problem
from finetune.distillation.prompt_check import about_prompt
from finetune.distillation.trainer import DistillationTrainer
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import RecipeError
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

    With a cache the setup does not hold the teacher, so its memory can be freed; `Itself` stands for a student that is its own teacher.
    Raises TrainingError for a problem that a check finds, DiskFull or RecipeError where there can be no cache and must be one.
    """
    spec, itself = recipe.distillation, isinstance(teacher, Itself)
    rows = TeacherRows(data.train) if is_prompted(data.train) else data.train
    if look:
        other = None if itself else teacher
        findings = examine(student, other, data.train, data.held_out, tokenizer=tokenizer, teacher_tokenizer=teacher_tokenizer)
        if is_prompted(data.held_out):
            with as_teacher(teacher) as asked:
                findings.append(about_prompt(asked, data.held_out))
        for finding in findings:
            if finding.level == "warning":
                reporter.report(Notice(f"{finding.text} {finding.hint or ''}".strip(), "warning"))
        stop_on_problem(findings)
    ours = head_of(student)
    with as_teacher(teacher) as asked:
        theirs = head_of(asked)
    tokens = sum(supervised_counts(data.train))  # the same of teacher and student
    folder = runtime.cache_dir / "teachers"
    vocabulary = shared_vocabulary(ours.vocabulary, theirs.vocabulary, tokenizer, teacher_tokenizer)
    own = {"base_only": teacher.adapter_off} if itself else {}
    identity = model_identity(teacher.model if itself else teacher, teacher_name, **own)
    more: dict[str, Any] = {"vocabulary": vocabulary, "student_head": ours, "temperature": spec.temperature}

    @cache
    def place(kind: str) -> Path:
        return folder / cache_key(kind, identity, rows, **more).digest()

    kinds = registry.names("signals") if folder.is_dir() else []
    present = {kind: sum(file.stat().st_size for file in place(kind).glob("*")) for kind in kinds}
    choice = choose_cache(
        spec.cache, tokens=tokens, student_head=ours, teacher_head=theirs, objective=spec.objective, folder=folder, present=present
    )
    if choice.kind == "none":
        if itself and not teacher.adapter_off:
            raise RecipeError(
                "The answers of a model that is its own teacher do not fit on the disk, and once it trains nobody can ask it.",
                hint=f"{choice.reason[0].upper()}{choice.reason[1:]}. To keep a second copy in memory: --set distillation.cache=none",
            )
        return DistillationSetup(spec, teacher, None, choice.reason, teacher_tokenizer)
    with as_teacher(teacher) as asked:
        written = build_cache(choice.kind, asked, rows, place(choice.kind), teacher_identity=identity, reporter=reporter, **more)
    return DistillationSetup(spec, None, written, choice.reason, None)
