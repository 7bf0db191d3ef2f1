"""What an earlier run has measured on the same rows: scores of the models that a run starts from, kept in the user's cache.

known_scores(context, teacher_identity(context), None)      # Scores, or None
to_answer(context)                  # by how many models the held-out rows are still to be answered
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from finetune import registry
from finetune.distillation.students import VERSION
from finetune.recipe import StudentSpec
from finetune.run_context import RunContext

if TYPE_CHECKING:
    from finetune.benchmark.scoring import Scores


def to_answer(context: RunContext) -> int:
    """How many models answer the held-out rows: the result, and those before it whose scores are not known. Prepares the data.

    Of tasks of lm-evaluation-harness nothing is looked up, which would import it.
    """
    if context.recipe.benchmark.tasks:
        return 2 + (len(context.teachers_located) if context.has_other_teacher else 0)
    if context.has_other_teacher:
        each = enumerate(context.recipe.all_teachers)
        before = [known_scores(context, teacher_identity(context, number), spec.load_in) for number, spec in each]
        before.append(known_student_scores(context))
    else:
        before = [known_scores(context, context.located.identity, context.load_in)]
    return 1 + before.count(None)


def teacher_identity(context: RunContext, number: int = 0) -> str:
    """Which teacher answers: the model, and what it is told."""
    return "\n".join(filter(None, [context.teachers_located[number].identity, context.recipe.all_teachers[number].system]))


def student_identity(context: RunContext) -> str:
    """Which student is beside which teachers, before it learns: one that is made is the same whenever it is made alike of the same rows."""
    recipe, model, quantize = context.recipe, context.rounds[0].recipe.model, context.recipe.distillation.quantize
    teachers = [each.model_dump(mode="json", exclude={"source"}) for each in recipe.all_teachers]
    ways = [("students", name) for name, _ in model.from_teacher.amounts()] if isinstance(model, StudentSpec) else []
    ways += [("grids", name) for name in (quantize.format, quantize.head) if name] if quantize else []
    parts = {
        "student": model.model_dump() if isinstance(model, StudentSpec) else context.located.identity,
        "quantize": quantize and quantize.model_dump(),
        "made": [VERSION, *(registry.code_of(*way) for way in ways)] if ways else [],
        "across_tokenizers": recipe.distillation.across_tokenizers,
        "teachers": [[teacher_identity(context, number), each] for number, each in enumerate(teachers)],
    }
    return json.dumps(parts, sort_keys=True)


def known_student_scores(context: RunContext) -> Scores | None:
    """The scores that an earlier run on the same rows has kept of a student before it learned, beside its teachers; or None."""
    return known_scores(context, student_identity(context), context.load_in)


def known_scores(context: RunContext, identity: str, load_in: str | None) -> Scores | None:
    """The scores that an earlier run on the same rows has kept of a model, or None."""
    from finetune.benchmark.scoring import load_base_scores  # torch, which whoever imports this must not wait for

    return load_base_scores(context.runtime, key_of(context, identity, load_in))


def key_of(context: RunContext, identity: str, load_in: str | None) -> str:
    """The name of a model's scores in the cache."""
    from finetune.benchmark.scoring import base_key
    from finetune.hardware.arithmetic import arithmetic

    recipe, machine, device = context.recipe, context.machine, context.whole_on
    # A cache may be shared by several machines, and outlives an upgrade: what answers with other digits has scores of its own.
    digits = {"device": device, "dtype": machine.dtype, "load_in": load_in, **arithmetic(device, gpu=machine.gpu)}
    return base_key(identity, context.data.fingerprint, recipe.benchmark, seed=recipe.seed, digits=digits)
