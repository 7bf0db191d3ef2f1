"""How a run gets its models: the base or the teacher and its student, the method attached, and what a student learns from.

model = load_base(context)                              # fine-tuning
student = load_student(context, load_teacher(context))  # distillation
model = attach_method(context, model)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune import registry
from finetune.distillation.grids.quantised import quantise
from finetune.distillation.prepare import DistillationSetup, prepare_distillation
from finetune.distillation.students import passes_of
from finetune.distillation.students.closeness import rate_at, rate_for
from finetune.distillation.students.making import make_student
from finetune.distillation.students.size import likely_mix
from finetune.distillation.teachers.itself import SelfTeacher
from finetune.events import ModelReady, Notice
from finetune.formatting import percent
from finetune.hardware.machine import Machine
from finetune.methods.base import MethodContext
from finetune.methods.inventory import Inventory
from finetune.methods.lora_kernel import speed_up
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.models.new_tokens import give_rows, new_tokens_of
from finetune.planning.known_caches import remember
from finetune.recipe import StudentSpec
from finetune.recipe.settings import FromTeacher
from finetune.run.train_model import Asked, engine_of
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.training.head import Head
from finetune.training.loop import parameters_of, trainable
from finetune.training.step_count import steps_of


def load_base(context: RunContext, *, role: str = "model") -> Any:
    """The model to train, as it is."""
    with context.stage("load", f"Loading the {role}"):
        model = load_model(context.located, _place(context), load_in=context.load_in, merge=context.earlier is None)
        give_rows(model, new_tokens_of(context.tokenizer))
    if context.earlier:
        speed_up(model)  # measured with the arithmetic that it was trained with, and is trained further with
    return model


def _place(context: RunContext) -> Machine:
    """The machine with the device that has the model whole."""
    return replace(context.machine, device=context.whole_on)


def load_teacher(context: RunContext, number: int = 0) -> Any:
    """The teacher, or that one of several; None for one on a server, and for a model that teaches itself, unless it is needed twice."""
    if context.recipe.grader or (context.teaches_itself and not context.copies_itself):
        return None
    several = f" {number + 1} of {len(context.teachers_located)}" if len(context.teachers_located) > 1 else ""
    located, spec = context.teachers_located[number], context.recipe.named_teachers[number]
    with context.stage("load", f"Loading the teacher{several}"):
        return load_model(located, context.machine, load_in=context.load_in if context.teaches_itself else spec.load_in)


def each_teacher(context: RunContext, first: list[Any]) -> Iterator[Any]:
    """The teachers one after another; `first` has the first, if it is in memory, and is emptied, so that it can be let go of."""
    for number in range(len(context.teachers_located)):
        yield first.pop() if first and not number else load_teacher(context, number)


@dataclass(frozen=True)
class Student:
    """A student before it learns, and the context with what was left open until it was there; `facts` are what run/student.json says."""

    context: RunContext
    model: Any
    facts: dict[str, Any] = field(default_factory=dict)


def load_student(context: RunContext, teacher: Any) -> Student:
    """The student as it is before it learns, loaded or made from the teacher; the size of its parts and the learning rate are settled."""
    facts: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    kl: float | None = None
    if isinstance(context.recipe.model, StudentSpec):
        wanted = _of_first_round(context)
        with context.stage("student", "Making the student"):
            made = make_student(teacher, wanted, context.data.train, reporter=context.reporter)
        model, facts, kl = made.model, made.facts, made.kl
        if wanted.size is not None:
            changes["model"] = {"from_teacher": {name: facts[name] for name in ("layers", "ffn") if name in facts}}
    else:
        model = load_base(context, role="student")
    if quantised(context, model):
        kl = None  # it answers otherwise now
    if context.recipe.training.learning_rate == "auto":
        with context.stage("rate", "Choosing the learning rate"):
            rate = rate_for(model, teacher, context.data.train) if kl is None else rate_at(kl)
        context.reporter.report(Notice(rate.said))
        changes["training"], facts = {"learning_rate": rate.value}, {**facts, "kl": rate.kl, "learning_rate": rate.value}
    return Student(context.beside(recipe=context.recipe.with_changes(changes)) if changes else context, model, facts)


def quantised(context: RunContext, model: Any) -> bool:
    """Let the student compute in few bits, if the recipe says so."""
    spec = context.recipe.distillation.quantize
    if spec is None:
        return False
    with context.stage("quantise", f"Rounding the student to {registry.title('grids', spec.format)}"):
        quantise(model, spec)
    return True


def _of_first_round(context: RunContext) -> FromTeacher:
    first = context.rounds[0].recipe.model
    assert isinstance(first, StudentSpec)
    return first.from_teacher


def load_trial_student(context: RunContext, teacher: Any) -> tuple[Any, float, float]:
    """A student of the same size and shape, to measure the cost of a run; the seconds that making it took, and making the run's own takes.

    Nothing is searched for.
    """
    if not isinstance(context.recipe.model, StudentSpec):
        model = load_base(context, role="student")
        quantised(context, model)
        return model, 0.0, 0.0
    asked = wanted = context.recipe.model.from_teacher
    if wanted.size is not None:
        wanted = FromTeacher.model_validate(dict(likely_mix(teacher, wanted.size).amounts()))
    began = time.perf_counter()
    model = make_student(teacher, wanted, context.data.train).model
    seconds = time.perf_counter() - began
    quantised(context, model)
    return model, seconds, seconds * passes_of(asked.amounts()) / passes_of(wanted.amounts())


def load_result(context: RunContext, folder: RunFolder) -> Any:
    """The model that a finished run left in its folder."""
    result = locate(str(folder.output_dir), context.runtime, context.reporter)
    with context.stage("load", "Loading the model"):
        model = load_model(result, _place(context), load_in=context.load_in if result.base else None, merge=False)
        speed_up(model)  # an adapter is measured with the arithmetic it was trained with
    return model


def attach_method(context: RunContext, model: Any) -> Any:
    """The model with the method of the run; reports which of its parameters train.

    One that is to be cut waits in main memory, but for a student, whose teachers are on the device.
    """
    if context.cut and not context.distils:
        model = model.to("cpu")
    spec, method = context.recipe.method, context.method
    steps = steps_of(context.recipe.training, len(context.data.train))
    tokens = tuple(new_tokens_of(context.tokenizer))
    make = method.go_on if context.earlier else method.attach
    inventory = Inventory.of(model.get_base_model() if context.earlier else model)
    recipe = context.recipe
    attached = make(model, spec, MethodContext(steps, seed=recipe.seed, head_settled=recipe.head_settled, new_tokens=tokens))
    parameters, learn, machine = parameters_of(attached), trainable(attached), context.machine
    role = "student" if context.distils else "model"
    context.reporter.report(
        ModelReady(role, context.located.name, parameters, learn, machine.dtype, machine.device, inventory.coverage(attached, spec).share)
    )
    learning = f"{learn:,} of {parameters:,} parameters train ({percent(learn / parameters, 1)})."
    for note in (learning, *method.notes(spec, machine.device)):
        context.reporter.report(Notice(note))
    return attached


def self_teacher(context: RunContext, student: Any) -> SelfTeacher:
    """The student as its own teacher."""
    return SelfTeacher(student, adapter_off=hasattr(student, "peft_config") and not context.earlier)


def distillation_setup(
    context: RunContext, student: Any, first: list[Any], *, look: bool = True, folder: RunFolder | None = None
) -> DistillationSetup:
    """What the student learns from, the models examined unless not to `look`; with a cache it does not hold the teachers.

    `first` has the first teacher, if it is in memory; it is taken out. A model that is its own teacher has none. With the `folder` of a
    run all its processes on this machine run the teacher, else this one.
    """

    def together(number: int, head: Head, models: list[Any], kind: str, cache: Path) -> None:
        assert folder is not None
        engine_of(context).ask(Asked(context, folder, number, head, models, kind, cache))

    if context.recipe.grader:
        from finetune.run.grading import graded_setup

        return graded_setup(context, student, look=look)
    if context.teaches_itself and not context.copies_itself:
        first = [self_teacher(context, student)]
    with context.stage("teacher cache", "Running the teacher") as done:
        setup = prepare_distillation(
            context.recipe,
            student,
            each_teacher(context, first),
            context.data,
            context.tokenizer,
            list(zip([located.identity for located in context.teachers_located], context.teacher_tokenizers, strict=True)),
            context.runtime,
            context.reporter,
            look=look,
            together=together if folder and context.processes > 1 else None,
            made=folder.read_json(folder.student) if folder and folder.student.is_file() else None,
        )
        for number, teacher in enumerate(setup.teachers):
            if teacher.cache:
                remember(context, number, teacher.cache)
        done(setup.reason)
    return setup
