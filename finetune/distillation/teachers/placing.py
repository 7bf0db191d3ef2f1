"""Place the teachers of a training beside its student: on its device, frozen, and checked against its head and its tokens.

vocabulary = place(teachers, trainer, settings, objective, routed=False)        # how many leading ids all of them share
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.distillation.across_tokenizers.projected import AVERAGED, OWN_ROWS
from finetune.distillation.across_tokenizers.spans import SpanReading
from finetune.distillation.across_tokenizers.ways import reading_of
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.caches.read_ahead import ReadAhead
from finetune.distillation.objectives import Objective
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.distillation.teachers.itself import SelfTeacher
from finetune.distillation.teachers.model_or_cache import Teacher
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import RecipeError, VocabularyMismatch
from finetune.hardware.kernels import use_fast_kernels
from finetune.recipe.distillation_settings import DistillationSpec
from finetune.training.head import Head, causal_lm, check_head, context_length, fixed_positions, head_of, needs_mask
from finetune.training.trainer import SupervisedTrainer


def place(teachers: Sequence[Teacher], trainer: SupervisedTrainer, spec: DistillationSpec, objective: Objective, *, routed: bool) -> int:
    """Make the teachers ready for the student of `trainer`; how many leading token ids mean the same to all of them.

    Raises RecipeError for a cache that cannot be used and for teachers that cannot teach together, VocabularyMismatch if one does not
    share its tokens with the student.
    """
    _check_correct(spec.correct, teachers)
    if len(teachers) > 1 and any(teacher.cache is not None and teacher.cache.signal.of_server for teacher in teachers):
        raise RecipeError("Likeliest tokens can be compared with one teacher only, and there are several.", hint="Pass one cache.")
    student = head_of(trainer.model)
    vocabulary = student.vocabulary
    for teacher in teachers:
        vocabulary = min(vocabulary, _place(teacher, student, trainer, spec, objective))
    if len(teachers) > 1 and not routed and any(teacher.reading for teacher in teachers):
        raise RecipeError(AVERAGED, hint=OWN_ROWS)
    if len(teachers) > 1 and spec.across_tokenizers == "spans":
        raise RecipeError("Spans compare one teacher, and there are several.", hint='Take one, or across_tokenizers="projected".')
    return vocabulary


def _check_correct(correct: float, teachers: Sequence[Teacher]) -> None:
    """Raises RecipeError where a teacher cannot be corrected."""
    if correct and len(teachers) > 1:
        raise RecipeError("correct compares one teacher with the data, and there are several.", hint="Leave out one of the two.")
    if correct and any(teacher.cache is not None and not teacher.cache.key.margins for teacher in teachers):
        raise RecipeError("The teacher cache was built without what `correct` needs.", hint="Build it with margins=True.")


def _place(teacher: Teacher, student: Head, trainer: SupervisedTrainer, spec: DistillationSpec, objective: Objective) -> int:
    """Place one teacher and what it has cached; how many leading ids it shares with the student's head."""
    vocabulary = student.vocabulary
    if spec.across_tokenizers != "none":
        limit = None if teacher.model is None else context_length(causal_lm(teacher.model))
        teacher.reading = reading_of(spec.across_tokenizers, trainer.processing_class, teacher.tokenizer, vocabulary, limit)
    if isinstance(teacher.model, SelfTeacher):
        teacher.masks = trainer.masks
    elif teacher.model is not None:
        vocabulary = _place_model(teacher, student, trainer)
    if teacher.cache is not None:
        of_spans = isinstance(teacher.reading, SpanReading)
        forward_kl = isinstance(objective, ForwardKL)
        teacher.cache.check(student, forward_kl=forward_kl, temperature=spec.temperature, of_spans=of_spans)
        vocabulary = _place_cache(teacher, teacher.cache, student, trainer.args.device)
    return vocabulary


def _place_model(teacher: Teacher, student: Head, trainer: SupervisedTrainer) -> int:
    """Freeze a model and put it beside the student, unless it has a place already; how many leading ids both share."""
    model = teacher.model
    model.requires_grad_(False).eval()
    if not (getattr(model, "hf_device_map", None) or getattr(model, "quantization_method", None)):
        model.to(trainer.args.device)
    use_fast_kernels(model)
    check_head(model)
    teacher.masks = needs_mask(model)
    if teacher.reading is not None:
        return student.vocabulary
    collator: Any = trainer.data_collator
    shared = shared_vocabulary(student.vocabulary, head_of(model).vocabulary, trainer.processing_class, teacher.tokenizer)
    collator.end_at(fixed_positions(model), "the teacher")
    return shared


def _place_cache(teacher: Teacher, cache: TeacherCache, student: Head, device: Any) -> int:
    """Put the head of a cache, if it keeps one, on the device; how many leading ids it shares with the student's head."""
    vocabulary = cache.key.vocabulary
    if vocabulary > student.vocabulary:
        raise VocabularyMismatch(f"The cached teacher has {vocabulary} tokens and the student {student.vocabulary}.")
    teacher.ahead = ReadAhead(cache) if device.type == "cuda" else None
    if cache.head is not None:
        kept = cache.head.each(lambda tensor: tensor.to(device))
        teacher.kept_head = kept if teacher.reading else kept.first(vocabulary)
    return vocabulary
