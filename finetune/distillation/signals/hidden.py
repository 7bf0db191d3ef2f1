"""The teacher's last normed hidden state, d numbers a token: good for every objective and temperature, and for a head that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.signals import Signal

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.training.head import Head
    from finetune.training.loss.workspace import Workspace


class Hidden(Signal):
    names = ("values",)
    keeps_head = True
    why = "it serves every objective"

    def token_bytes(self, teacher: Head, student: Head | None) -> int:
        return teacher.weight.shape[1] * teacher.weight.dtype.itemsize

    def ask(self, hidden: Tensor, teacher: Head, student: Head | None, temperature: float, workspace: Workspace) -> tuple[Tensor, ...]:
        return (hidden.to(teacher.weight.dtype),)
