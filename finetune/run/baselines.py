"""Scores of the models a run starts from, measured once per model and rows and kept in the user's cache.

before = base_scores(context, load)
teacher = teacher_scores(context, [teacher])     # with the states that a student is compared with
before = student_scores(context, student, teacher.one)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from finetune.benchmark.perplexity import answer_losses
from finetune.benchmark.scoring import Scores, benchmark_model, chosen_rows, of_its_texts, save_base_scores
from finetune.benchmark.several_teachers import part, routed
from finetune.benchmark.teacher_agreement import TeacherStates
from finetune.data.tokens.system_prompt import TeacherRows
from finetune.distillation.teachers.routes import places_of, teacher_rows
from finetune.events import Notice
from finetune.planning.known_scores import key_of, known_scores, student_identity, teacher_identity
from finetune.run.loading import each_teacher, load_teacher
from finetune.run_context import RunContext
from finetune.training.head import head_of


def measure(context: RunContext, model: Any, stage: str, **options: Any) -> Scores:
    """Score a model on the run's held-out rows; a teacher with a system prompt is asked with it."""
    return benchmark_model(
        model,
        context.tokenizer,
        TeacherRows(context.data.held_out) if options.get("as_teacher") else context.data.held_out,
        context.recipe.benchmark,
        seed=context.recipe.seed,
        reporter=context.reporter,
        stage=stage,
        **options,
    )


def base_scores(context: RunContext, load: Callable[[], Any]) -> Scores:
    """The scores of the model that is fine-tuned, before; `load` is called if they are not known."""
    return _once(context, load, context.located.identity, context.load_in, "before", "Measuring the base model")


def student_scores(context: RunContext, student: Any, teacher: Scores) -> Scores:
    """The student's scores before it learns, beside its teacher's; the size of one that is made must be settled."""
    title = "Measuring the student before training"
    return _once(context, lambda: student, student_identity(context), context.load_in, "before", title, teacher=teacher.states)


@dataclass(frozen=True)
class TeacherScores:
    """What a student is compared with: `one` teacher, or several as one; and the scores of `each`, on its own rows where it has some."""

    one: Scores
    each: list[Scores]


def teacher_scores(context: RunContext, first: list[Any]) -> TeacherScores:
    """The teachers' scores, one after another; `first` has the first model, if it is in memory, and is emptied."""
    each: list[Scores] = []
    for model in each_teacher(context, first):
        each.append(_scores_of(context, model, len(each)))
        del model  # before the next is loaded
    if len(each) == 1:
        return TeacherScores(each[0], each)
    rows = chosen_rows(context.data.held_out, context.recipe.benchmark, context.recipe.seed)
    numbers = teacher_rows(context.recipe, {"route": [row.get("route") for row in rows]}, held_out=True)
    if numbers is None:
        return TeacherScores(each[context.recipe.main_teacher], each)
    return TeacherScores(routed(each, numbers), [part(scores, places_of(number, numbers)) for number, scores in enumerate(each)])


def teacher_answers(context: RunContext, title: str) -> Scores:
    """The one teacher's answers to the held-out rows of a context, without what is per token; it is loaded if they are not known."""
    own, identity = context.of_teacher(0), teacher_identity(context)
    options = {"as_teacher": True} if own is context else {}
    scores = _once(own, lambda: load_teacher(context), identity, context.recipe.all_teachers[0].load_in, "teacher", title, **options)
    return of_its_texts(replace(scores, states=None))


def _scores_of(context: RunContext, teacher: Any, number: int) -> Scores:
    """One teacher's scores, and its hidden states on the held-out rows (those are never kept on disk)."""
    load_in, identity = context.recipe.all_teachers[number].load_in, teacher_identity(context, number)
    title = f"Measuring the teacher{f' {number + 1} of {len(context.teachers_located)}' if len(context.teachers_located) > 1 else ''}"
    own = context.of_teacher(number)
    if own is not context:  # losses and states per token of other tokens cannot be set beside the student's
        return of_its_texts(_once(own, lambda: teacher, identity, load_in, "teacher", title))
    scores = _once(context, lambda: teacher, identity, load_in, "teacher", title, as_teacher=True)
    if scores.states is not None:
        return scores
    states = TeacherStates(head_of(teacher).detach())
    rows = chosen_rows(TeacherRows(context.data.held_out), context.recipe.benchmark, context.recipe.seed)
    answer_losses(teacher, rows, reporter=context.reporter, stage="teacher", remember=states)
    return replace(scores, states=states)


def _once(
    context: RunContext, load: Callable[[], Any], identity: str, load_in: str | None, stage: str, title: str, **options: Any
) -> Scores:
    kept = known_scores(context, identity, load_in)
    if kept is not None:
        context.reporter.report(Notice(f"{title}: reused from an earlier run on the same rows."))
        return kept
    model = load()
    with context.stage(stage, title):
        scores = measure(context, model, stage, **options)
    save_base_scores(context.runtime, key_of(context, identity, load_in), scores)
    return scores
