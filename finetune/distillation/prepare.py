"""Prepare a distillation: check the models, run each teacher once to write its cache, make the trainer.

setup = prepare_distillation(recipe, student, [teacher], data, tokenizer, [("gpt2-medium@abc", its_tokenizer)], runtime, reporter)
train(student, tokenizer, data.train, recipe, machine, reporter, folder=folder, make_trainer=setup.trainer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune.data.prepare import PreparedData
from finetune.data.tokens.system_prompt import is_prompted
from finetune.distillation.caches.setup import CacheSetup, reading_for, rows_asked
from finetune.distillation.pair_checks import Finding, about_prompt, contradictions, examine, stop_on_problem, top_tokens
from finetune.distillation.teachers.itself import SelfTeacher, as_teacher
from finetune.distillation.teachers.model_or_cache import Teacher
from finetune.distillation.teachers.routes import rows_of, teacher_rows
from finetune.distillation.terms.internals import compared_of
from finetune.distillation.trainer import DistillationTrainer
from finetune.events import Notice, Reporter
from finetune.recipe import DistillationSpec, Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.head import Head, head_of

# Has all devices write the cache of a teacher: its number, the student's head, the models in memory here, the kind, the folder.
Together = Callable[[int, Head, list[Any], str, Path], None]


@dataclass
class DistillationSetup:
    """What the student learns from: of each teacher a cache, or itself where there is none."""

    spec: DistillationSpec
    teachers: list[Teacher]
    reason: str = ""
    weights: list[float] | None = None
    rows: list[int] | None = None
    reporter: Reporter | None = None
    made: Mapping[str, Any] | None = None  # the facts of a student that was made from its teacher

    @property
    def needs_models(self) -> bool:
        """Whether a teacher stays in memory."""
        return any(teacher.model is not None for teacher in self.teachers)

    def trainer(self, **arguments: Any) -> DistillationTrainer:
        """A trainer for these arguments of a Trainer."""
        online, tokenizers = self.needs_models, [teacher.tokenizer for teacher in self.teachers]
        caches = [teacher.cache for teacher in self.teachers if teacher.cache]
        return DistillationTrainer(
            teacher_model=[teacher.model for teacher in self.teachers] if online else None,
            teacher_tokenizer=tokenizers if online or self.spec.across_tokenizers != "none" else None,
            across_tokenizers=self.spec.across_tokenizers,
            cache=caches if len(caches) == len(self.teachers) else None,
            teacher_weights=self.weights,
            teacher_rows=self.rows,
            temperature=self.spec.temperature,
            alpha=self.spec.alpha,
            objective=self.spec.objective,
            correct=self.spec.correct,
            on_policy=self.spec.practice,
            reporter=self.reporter,
            features=self.spec.features,
            made=self.made,
            **arguments,
        )


def prepare_distillation(
    recipe: Recipe,
    student: Any,
    models: Iterable[Any],
    data: PreparedData,
    tokenizer: Any,
    known: Sequence[tuple[str, Any]],
    runtime: RuntimeOptions,
    reporter: Reporter,
    *,
    look: bool = True,
    together: Together | None = None,
    made: Mapping[str, Any] | None = None,
) -> DistillationSetup:
    """Check the models (if `look`), then run each teacher over its rows and cache its outputs, if they fit on the disk.

    `models` are the teachers, taken one after another; `known` has the name of each one's exact weights and its tokenizer. With caches the
    setup holds none of them, so the memory of one can be freed before the next is loaded, unless they are to read what a student writes.
    Where there are several devices, `together` has all of them run a teacher. `made` are the facts of a student made from the teacher.
    `SelfTeacher` stands for a student that is its own teacher. Raises TrainingError for a problem that a check finds, DiskFull or
    RecipeError where there can be no cache and must be one.
    """
    spec = recipe.distillation
    wanted: str = spec.cache
    taught = rows_asked(recipe, data)
    of_rows, of_held_out = teacher_rows(recipe, taught), teacher_rows(recipe, data.held_out, held_out=True)
    ours, teachers, choices, said = head_of(student), [], [], set[str]()
    first_choices: list[Any] = []
    taken = iter(models)
    for number, (name, theirs) in enumerate(known):
        model = next(taken)
        rows, held_out = rows_of(number, taught, of_rows), rows_of(number, data.held_out, of_held_out)
        reading = reading_for(spec, ours, model, tokenizer, theirs)
        if look:
            other = None if isinstance(model, SelfTeacher) else model
            findings = examine(student, other, rows, held_out, tokenizer=tokenizer, teacher_tokenizer=theirs, reading=reading)
            if is_prompted(held_out):
                with as_teacher(model) as asked:
                    findings.append(about_prompt(asked, held_out))
            tell(findings, said, reporter)
            if len(known) > 1 and of_rows is None:
                first_choices.append(top_tokens(model, rows))
        with as_teacher(model) as asked:
            compared = None if spec.compares_other_layers else compared_of(spec.features, student, asked, made)
        asking = CacheSetup(spec, ours, model, rows, name, (tokenizer, theirs), reading, runtime, reporter, compared)
        others = partial(together, number, ours, [student, model]) if together else None
        choice, written = asking.ask(wanted, left=len(known) - number, others=others)
        wanted = choice.kind  # all caches are of one kind
        choices.append(choice)
        teachers.append(Teacher(model if written is None or spec.practice else None, written, theirs))
        del model, asking
    tell(contradictions([spec.source for spec in recipe.all_teachers], first_choices), said, reporter)
    weights = None if of_rows or len(known) == 1 else [spec.weight or 1.0 for spec in recipe.teachers or []]
    several = f"{len(known)} teachers: " if len(known) > 1 else ""
    return DistillationSetup(spec, teachers, several + choices[0].reason, weights, of_rows, reporter, made)


def tell(findings: Sequence[Finding], said: set[str], reporter: Reporter) -> None:
    """Each warning once, however many teachers it holds for; TrainingError for a problem."""
    for finding in findings:
        if finding.level == "warning" and finding.text not in said:
            said.add(finding.text)
            reporter.report(Notice(f"{finding.text} {finding.hint or ''}".strip(), "warning"))
    stop_on_problem(findings)
