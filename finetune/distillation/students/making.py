"""A student made from its teacher: smaller in the ways that the recipe names, everything else kept.

    student = make_student(teacher, FromTeacher(layers=20), rows)
    student = make_student(teacher, FromTeacher(layers=24, ffn=0.75), rows)

Embeddings, norms and head are the teacher's, so both share a tokenizer, and a frozen head allows the gradient cache. Each way is a file
beside this one.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from finetune import registry
from finetune.distillation.students import Made, Rows, passes_of
from finetune.distillation.students.calibration import Watched
from finetune.errors import ModelError
from finetune.events import Notice, Reporter
from finetune.recipe.settings import FromTeacher
from finetune.training.head import causal_lm


def make_student(teacher_model: nn.Module, wanted: FromTeacher, rows: Rows, *, reporter: Reporter | None = None, say: bool = True) -> Made:
    """A new model, smaller than the teacher in the ways `wanted`; the teacher stays as it was. What is done is reported.

    Unless it is to `say` what was left out, only the progress is.

    Rows need `input_ids`; about a thousand of their tokens are used. Raises RecipeError if that little cannot be kept, ModelError if the
    teacher is quantised or of an architecture that cannot be made smaller so.
    """
    if getattr(causal_lm(teacher_model), "quantization_method", None):
        raise ModelError("A student cannot be made from a quantised teacher.", hint="Load the teacher without load_in.")
    rows = list(rows) if not hasattr(rows, "__getitem__") else rows
    if reporter is not None:
        rows = Watched(rows, passes_of(wanted.amounts()), reporter)
    model: Any = teacher_model
    facts: dict[str, Any] = {}
    said: list[str] = []
    kl: float | None = None
    for name, amount in wanted.amounts():
        made = registry.load("students", name).make(_merged(model) if name != "layers" else model, amount, rows)
        model, facts, kl = made.model, {**facts, **made.facts}, made.kl
        said.append(made.said)
    model.config._name_or_path = ""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    if reporter is not None and say:
        for sentence in said:
            reporter.report(Notice(sentence))
    parameters = {"parameters": _count(model), "of_parameters": _count(causal_lm(teacher_model))}
    return Made(model.eval(), " ".join(said), {**facts, **parameters}, kl)


def _merged(model: Any) -> Any:
    """An adapted model as a plain one; the adapted one stays as it is."""
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
