"""The teacher's last normed hidden state, d numbers a token: good for every objective and temperature, and for a head that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.training.chunked_loss import Workspace
    from finetune.training.head import Head


class Hidden:
    names = ("values",)
    keeps_head = True
    of_spans = False
    of_server = False
    why = "it serves every objective"

    def problem(self, student: Head, forward_kl: bool) -> str | None:
        return None

    def token_bytes(self, teacher: Head, student: Head | None) -> int:
        return teacher.weight.shape[1] * teacher.weight.dtype.itemsize

    def key(self, vocabulary: int, student: Head | None, temperature: float | None) -> dict[str, Any]:
        return {}

    def mismatch(self, key: Any, student: Head, temperature: float) -> str | None:
        return None

    def ask(self, hidden: Tensor, teacher: Head, student: Head | None, temperature: float, workspace: Workspace) -> tuple[Tensor, ...]:
        return (hidden.to(teacher.weight.dtype),)
