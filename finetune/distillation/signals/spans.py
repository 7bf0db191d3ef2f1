"""The teacher's log-likelihood of each span of text, one number a token: all that spans are compared by, at every temperature.

Only for a teacher with another tokenizer: see finetune/distillation/across_tokenizers/spans.py, which takes it of the states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.signals import Signal

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.training.head import Head
    from finetune.training.loss.workspace import Workspace


class Spans(Signal):
    names = ("values",)
    of_spans = True
    why = "likelihoods of spans are compared, which is approximate"

    def token_bytes(self, teacher: Head, student: Head | None) -> int:
        return 4

    def ask(self, hidden: Tensor, teacher: Head, student: Head | None, temperature: float, workspace: Workspace) -> tuple[Tensor, ...]:
        """What the reading has made of the states: log b [n, 1]."""
        return (hidden.float(),)
