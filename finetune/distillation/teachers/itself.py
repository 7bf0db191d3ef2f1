"""Self-distillation: a model learns from itself as it was before the run, without a second copy in memory.

    teacher = SelfTeacher(model, adapter_off=True)
    with as_teacher(teacher) as before:          # the model with its new adapter off, and without dropout
        hidden_states(before, ids)

A cache is written before the first step, when every model still is what it was. Asked at every step, it must be one whose adapter is new:
without it, the base is the model before the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.distillation.caches.on_disk import model_identity
from finetune.errors import RecipeError
from finetune.training.head import causal_lm


@dataclass(frozen=True)
class SelfTeacher:
    """`adapter_off`: the model was, before the run, what it is without its adapter; else it can be asked before the first step only."""

    model: Any
    adapter_off: bool

    @classmethod
    def of(cls, model: Any) -> SelfTeacher:
        """For training; raises RecipeError for a model without an adapter, which changes with every step."""
        if not hasattr(model, "peft_config"):
            raise RecipeError(
                "A model that trains whole cannot be its own teacher at every step.",
                hint="Pass a cache that it has written before, or load it again as teacher_model=.",
            )
        return cls(model, adapter_off=True)

    def check_online(self, why: str) -> None:
        """Raises RecipeError, `why` there is no cache, if the model cannot be asked at every step."""
        if not self.adapter_off:
            raise RecipeError(
                "The answers of a model that is its own teacher do not fit on the disk, and they cannot be made once it trains.",
                hint=f"{why[0].upper()}{why[1:]}. To keep a second copy in memory: --set distillation.cache=none",
            )


def identity_of(teacher: Any, name: str) -> str:
    """What `model_identity` says of a teacher, which may be `SelfTeacher`."""
    if isinstance(teacher, SelfTeacher):
        return model_identity(teacher.model, name, base_only=teacher.adapter_off)
    return model_identity(teacher, name)


@contextmanager
def as_teacher(teacher: Any) -> Iterator[nn.Module]:
    """The model to ask: a teacher as it is, `SelfTeacher` as it was before the run."""
    if not isinstance(teacher, SelfTeacher):
        yield teacher
        return
    inner = causal_lm(teacher.model)
    was_training = inner.training
    with teacher.model.disable_adapter() if teacher.adapter_off else nullcontext():
        inner.eval()
        try:
            yield teacher.model
        finally:
            inner.train(was_training)
