"""What a teacher cache stores for each supervised token: one small file per signal, found by name in the registry, cheapest first.

    signal = registry.load("signals", "hidden")
    signal.problem(student_head, forward_kl=True)       # None, or why this run cannot use it
    bytes_of(signal, 9000, teacher_head, student_head)  # on disk

`names` are the tensors of a shard: the first is [tokens, width], a second is [tokens] or [tokens, k]. A signal that `keeps_head` needs
the teacher's head beside its values in every step. A teacher's cache (finetune/distillation/caches/) is of one kind: its signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.training.head import Head
    from finetune.training.loss.workspace import Workspace


class Signal:
    """What every signal has; by itself it serves every objective, student and temperature."""

    names: ClassVar[tuple[str, ...]]
    keeps_head: ClassVar[bool] = False
    of_spans: ClassVar[bool] = False  # whether it is for spans of text across tokenizers, and for nothing else
    of_server: ClassVar[bool] = False  # whether it is what a server returns, and used for no other teacher unless asked for
    why: ClassVar[str]  # it is chosen where nothing cheaper was possible

    def problem(self, student: Head, forward_kl: bool) -> str | None:
        """Why a student with this head and objective cannot learn from it, as half a sentence, or None."""
        return None

    def token_bytes(self, teacher: Head, student: Head | None) -> int:
        """On disk for each supervised token, all of its `names` together; heads may be without content."""
        raise NotImplementedError

    def key(self, vocabulary: int, student: Head | None, temperature: float | None) -> dict[str, Any]:
        """The fields of a CacheKey that its numbers depend on, beside teacher and rows."""
        return {}

    def mismatch(self, key: Any, student: Head, temperature: float) -> str | None:
        """Why a cache with this key was made for another student or temperature, as a sentence, or None."""
        return None

    def ask(self, hidden: Tensor, teacher: Head, student: Head | None, temperature: float, workspace: Workspace) -> tuple[Tensor, ...]:
        """The tensors in `names` for states [n, d] of the teacher; both heads are cut to the shared vocabulary."""
        raise NotImplementedError


def bytes_of(signal: Signal, tokens: int, teacher: Head, student: Head | None) -> int:
    """On disk for this many supervised tokens, with the teacher's head if it keeps one."""
    return tokens * signal.token_bytes(teacher, student) + (teacher.weight.nbytes if signal.keeps_head else 0)
