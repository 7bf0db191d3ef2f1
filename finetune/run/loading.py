"""How a run gets its models: the base with its method, or teacher, student and lesson; and the scores before and after.

tuner.model = load_base(tuner)           # fine-tuning
tuner.model = load_student(tuner)        # distillation
scores = final_scores(tuner)             # benchmark.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.benchmark.scoring import Scores, benchmark_json
from finetune.distillation.setup import DistillationSetup, prepare_distillation
from finetune.distillation.student import make_student
from finetune.events import (
    ModelReady,
    Notice,
    RanksSettled,
    read_events,
)
from finetune.methods.base import MethodContext
from finetune.methods.lora_kernel import speed_up
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.recipe import StudentSpec
from finetune.run.baselines import base_scores, measure, teacher_scores
from finetune.training.loop import parameters_of, trainable
from finetune.training.step_count import steps_of

if TYPE_CHECKING:
    from finetune.run.finetuner import LLMFineTuner


def load_base(tuner: LLMFineTuner) -> Any:
    """The model to fine-tune, its scores taken, the method attached."""
    with tuner.stage("load", "Loading the model"):
        model = load_model(tuner.located, tuner.machine, load_in=tuner.method.load_in(tuner.recipe.method))
    tuner.before = base_scores(tuner, model)
    return attached(tuner, model, "model")


def load_student(tuner: LLMFineTuner) -> Any:
    """The student, chosen or made from the teacher; both have their scores taken, and the method is attached to the student."""
    teacher = tuner.load_teacher_model()
    tuner.taught = teacher_scores(tuner, teacher)
    model = student(tuner, teacher)
    with tuner.stage("before", "Measuring the student as it is"):
        tuner.before = measure(tuner, model, "before", teacher=tuner.taught.states)
    return attached(tuner, model, "student")


def lesson(tuner: LLMFineTuner, *, look: bool = True) -> DistillationSetup:
    """What the student learns from, the models examined unless not to `look`; a teacher whose answers are written down leaves memory."""
    with tuner.stage("teacher cache", "Asking the teacher") as done:
        teacher_tokenizer = tuner.tokenizer if tuner.student_is_made else load_tokenizer(tuner.teacher_located)
        made = prepare_distillation(
            tuner.recipe,
            tuner.model,
            tuner.load_teacher_model(),
            tuner.data,
            tuner.tokenizer,
            teacher_tokenizer,
            tuner.teacher_located.identity,
            tuner.runtime,
            tuner.reporter,
            look=look,
        )
        if made.cache is not None:
            tuner.teacher = None
        done(made.reason)
    return made


def final_scores(tuner: LLMFineTuner) -> dict[str, Any]:
    """benchmark.json: the result beside the base model, or beside the teacher and the student it was before."""
    if tuner.model is None:
        _load_result(tuner)
    assert tuner.before is not None
    with tuner.stage("after", "Measuring the new model"):
        after = measure(tuner, tuner.model, "after", **({"teacher": tuner.taught.states} if tuner.taught else {}))
    scores = benchmark_json(tuner.before, after, tuner.taught, seed=tuner.recipe.seed, bytes_on_disk=_sizes(tuner, after))
    ranks = [record["ranks"] for record in read_events(tuner.folder.events) if record.get("event") == RanksSettled.name]
    return scores | ({"ranks": ranks[-1]} if ranks else {})


def _load_result(tuner: LLMFineTuner) -> None:
    """The model that a finished run left in its folder, and the scores of what it came from."""
    load_in = tuner.method.load_in(tuner.recipe.method)
    if tuner.distils:
        teacher = tuner.load_teacher_model()
        tuner.taught = teacher_scores(tuner, teacher)
        with tuner.stage("before", "Measuring the student as it was"):
            tuner.before = measure(tuner, student(tuner, teacher), "before", teacher=tuner.taught.states)
        tuner.teacher = None
    else:
        tuner.before = base_scores(tuner, lambda: load_model(tuner.located, tuner.machine, load_in=load_in))
    result = locate(str(tuner.folder.output_dir), tuner.runtime, tuner.reporter)
    with tuner.stage("load", "Loading the model"):
        tuner.model = load_model(result, tuner.machine, load_in=load_in if result.base else None, merge=False)
        speed_up(tuner.model)  # an adapter is measured with the arithmetic it was trained with


def student(tuner: LLMFineTuner, teacher: Any) -> Any:
    """The student as it is before it learns: loaded, or made from the teacher."""
    if isinstance(tuner.recipe.model, StudentSpec):
        with tuner.stage("student", "Making the student"):
            return make_student(teacher, tuner.recipe.model.from_teacher.layers, tuner.data.train, reporter=tuner.reporter)
    with tuner.stage("load", "Loading the student"):
        return load_model(tuner.located, tuner.machine, load_in=tuner.method.load_in(tuner.recipe.method))


def attached(tuner: LLMFineTuner, model: Any, role: str) -> Any:
    """The model with the method of the run, and what of it learns said."""
    steps = steps_of(tuner.recipe.training, len(tuner.data.train))
    context = MethodContext(total_steps=steps, seed=tuner.recipe.seed, student_is_made=tuner.student_is_made)
    attached = tuner.method.attach(model, tuner.recipe.method, context)
    parameters, learn = parameters_of(attached), trainable(attached)
    tuner.reporter.report(ModelReady(role, tuner.located.name, parameters, learn, tuner.machine.dtype, tuner.machine.device))
    notes = tuner.method.notes(tuner.recipe.method, tuner.machine.device)
    for note in (f"{learn:,} of {parameters:,} parameters train ({learn / parameters:.1%}).", *notes):
        tuner.reporter.report(Notice(note))
    return attached


def _sizes(tuner: LLMFineTuner, after: Scores) -> dict[str, int]:
    """Bytes of weights: of the files of the result, and what the teacher's parameters take in the same dtype."""
    files = sum(file.stat().st_size for file in tuner.folder.output_dir.glob("*.safetensors"))
    sizes = {"after": files}
    if tuner.taught:
        sizes["teacher"] = round(files / after.parameters * tuner.taught.parameters)
    return sizes
