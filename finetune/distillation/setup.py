"""From models to what a distillation trains on: the checks, each teacher run once, a trainer that compares with them.

setup = prepare_distillation(recipe, student, [teacher], data, tokenizer, [("gpt2-medium@abc", its_tokenizer)], runtime, reporter)
train(student, tokenizer, data.train, recipe, machine, reporter, folder=folder, make_trainer=setup.trainer)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune.data.prepare import PreparedData
from finetune.data.system_prompt import TeacherRows, is_prompted
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.across_tokenizers.spans import SpanReading
from finetune.distillation.across_tokenizers.ways import reading_of
from finetune.distillation.cache import TeacherCache
from finetune.distillation.cache_builder import build_cache, cache_key, supervised_counts
from finetune.distillation.cache_choice import CacheChoice, choose_cache, signals_for
from finetune.distillation.corrected import MARGIN_BYTES
from finetune.distillation.itself import Itself, as_teacher, identity_of
from finetune.distillation.pair_checks import Finding, contradictions, examine, stop_on_problem, top_tokens
from finetune.distillation.prompt_check import about_prompt
from finetune.distillation.routes import rows_of, teacher_rows
from finetune.distillation.teachers import Teacher
from finetune.distillation.trainer import DistillationTrainer
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.events import Notice, Reporter
from finetune.formatting import percent
from finetune.recipe import DistillationSpec, Recipe
from finetune.runtime import RuntimeOptions
from finetune.training.head import Head, causal_lm, context_length, head_of


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
) -> DistillationSetup:
    """Check the models (if `look`), then run each teacher over its rows and cache its outputs, if they fit on the disk.

    `models` are the teachers, taken one after another; `known` has the name of each one's exact weights and its tokenizer. With caches the
    setup holds none of them, so the memory of one can be freed before the next is loaded, unless they are to read what a student writes.
    `Itself` stands for a student that is its own teacher. Raises TrainingError for a problem that a check finds, DiskFull or RecipeError
    where there can be no cache and must be one.
    """
    spec = recipe.distillation
    wanted: str = spec.cache
    of_rows, of_held_out = teacher_rows(recipe, data.train), teacher_rows(recipe, data.held_out, held_out=True)
    ours, teachers, choices, said = head_of(student), [], [], set[str]()
    first_choices: list[Any] = []
    taken = iter(models)
    for number, (name, theirs) in enumerate(known):
        model = next(taken)
        rows, held_out = rows_of(number, data.train, of_rows), rows_of(number, data.held_out, of_held_out)
        reading = _reading(spec, ours, model, tokenizer, theirs)
        if look:
            other = None if isinstance(model, Itself) else model
            findings = examine(student, other, rows, held_out, tokenizer=tokenizer, teacher_tokenizer=theirs, reading=reading)
            if is_prompted(held_out):
                with as_teacher(model) as asked:
                    findings.append(about_prompt(asked, held_out))
            _tell(findings, said, reporter)
            if len(known) > 1 and of_rows is None:
                first_choices.append(top_tokens(model, rows))
        rows = TeacherRows(rows) if is_prompted(rows) else rows
        asking = _Asking(spec, ours, model, rows, identity_of(model, name), (tokenizer, theirs), reading, runtime, reporter)
        choice, written = asking.ask(wanted, left=len(known) - number)
        wanted = choice.kind  # all caches are of one kind
        choices.append(choice)
        teachers.append(Teacher(model if written is None or spec.practice else None, written, theirs))
        del model, asking
    _tell(contradictions([spec.source for spec in recipe.all_teachers], first_choices), said, reporter)
    weights = None if of_rows or len(known) == 1 else [spec.weight or 1.0 for spec in recipe.teachers or []]
    several = f"{len(known)} teachers: " if len(known) > 1 else ""
    return DistillationSetup(spec, teachers, several + choices[0].reason, weights, of_rows, reporter)


def _reading(spec: DistillationSpec, student: Head, teacher: Any, ours: Any, theirs: Any) -> Reading | None:
    """How a teacher with another tokenizer is read, if the recipe lets it be."""
    if spec.across_tokenizers == "none" or isinstance(teacher, Itself):
        return None
    return reading_of(spec.across_tokenizers, ours, theirs, student.vocabulary, context_length(causal_lm(teacher)))


def _tell(findings: Sequence[Finding], said: set[str], reporter: Reporter) -> None:
    """Each warning once, however many teachers it holds for; TrainingError for a problem."""
    for finding in findings:
        if finding.level == "warning" and finding.text not in said:
            said.add(finding.text)
            reporter.report(Notice(f"{finding.text} {finding.hint or ''}".strip(), "warning"))
    stop_on_problem(findings)


class _Asking:
    """Runs one teacher over its rows."""

    def __init__(
        self,
        spec: DistillationSpec,
        student: Head,
        model: Any,
        rows: Any,
        identity: str,
        tokenizers: tuple[Any, Any],
        reading: Reading | None,
        runtime: RuntimeOptions,
        reporter: Reporter,
    ) -> None:
        self.spec, self.student, self.model, self.rows, self.identity, self.reporter = spec, student, model, rows, identity, reporter
        self.folder, self.reading = runtime.cache_dir / "teachers", reading
        with as_teacher(model) as asked:
            self.head = head_of(asked)
        if reading is None:
            vocabulary = shared_vocabulary(student.vocabulary, self.head.vocabulary, *tokenizers)
        else:
            vocabulary, self.identity = reading.vocabulary, reading.identity(identity)
        self.more: dict[str, Any] = {"vocabulary": vocabulary, "student_head": student, "temperature": spec.temperature}
        self.more |= {"margins": True} if spec.correct else {}

    def ask(self, wanted: str, *, left: int) -> tuple[CacheChoice, TeacherCache | None]:
        """The choice among the signals, and the cache; `left` teachers, this one included, still need room for theirs."""

        @cache
        def place(kind: str) -> Path:
            return self.folder / cache_key(kind, self.identity, self.rows, **self.more).digest()

        of_spans = isinstance(self.reading, SpanReading)
        kinds = signals_for(of_spans) if self.folder.is_dir() else {}
        choice = choose_cache(
            wanted,
            tokens=sum(supervised_counts(self.rows)),
            student_head=self.student,
            teacher_head=self.head,
            objective=self.spec.objective,
            folder=self.folder,
            beside=MARGIN_BYTES if self.spec.correct else 0,
            present={kind: sum(file.stat().st_size for file in place(kind).glob("*")) for kind in kinds},
            teachers=left,
            features=self.spec.features,
            of_spans=of_spans,
        )
        if choice.kind == "none":
            if isinstance(self.model, Itself):
                self.model.check_online(choice.reason)
            return choice, None
        more = {**self.more, "teacher_identity": self.identity, "reading": self.reading, "reporter": self.reporter}
        with as_teacher(self.model) as asked:
            written = build_cache(choice.kind, asked, self.rows, place(choice.kind), **more)
        if written.key.margins:
            wrong = float((written.margins(range(written.rows), supervised_counts(self.rows)) > 0).float().mean())
            self.reporter.report(Notice(f"The teacher's first choice is wrong for {percent(wrong)} of the tokens: there it is corrected."))
        return choice, written
