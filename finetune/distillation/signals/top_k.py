"""The teacher's likeliest tokens and their log-probabilities, and that of all others together: what a server returns, and approximate.

It serves every objective and temperature, and a head that trains: see finetune/distillation/top_k_loss.py. With a teacher on this machine
no run chooses it, since more is known; one made by hand (`build_cache("top_k", model, rows, folder)`) takes 164 bytes a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.signals import Signal
from finetune.recipe.teacher_settings import TOP_K

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.training.head import Head
    from finetune.training.loss.workspace import Workspace


class TopK(Signal):
    names = ("values", "ids")
    of_server = True
    why = "a server returns its likeliest tokens, which is approximate"

    def token_bytes(self, teacher: Head, student: Head | None) -> int:
        return token_bytes(min(TOP_K, teacher.vocabulary))

    def ask(self, hidden: Tensor, teacher: Head, student: Head | None, temperature: float, workspace: Workspace) -> tuple[Tensor, ...]:
        """Log-probabilities [n, k + 1], the last of all other tokens together, and the k tokens [n, k], at temperature 1."""
        import torch

        from finetune.distillation.top_k_loss import with_rest
        from finetune.training.loss.chunked import ChunkLogits, blocks_of, softmax_

        top, logits = min(TOP_K, teacher.vocabulary), ChunkLogits("teacher", hidden, teacher, 1.0)
        values = torch.empty(len(hidden), top, dtype=logits.precise, device=hidden.device)
        ids = torch.empty(len(hidden), top, dtype=torch.int32, device=hidden.device)
        for rows, block in blocks_of(logits, workspace):
            found = block.topk(top)
            values[rows], ids[rows] = found.values - softmax_(block), found.indices.int()
        return with_rest(values.cpu()).float(), ids  # not every device has 64 bits


def token_bytes(top: int) -> int:
    """On disk, of so many likeliest tokens."""
    return 4 * (top + 1) + 4 * top
