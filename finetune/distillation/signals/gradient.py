"""What the gradient of forward KL needs: q @ W [d] and sum q log q, with q the teacher's distribution and W the student's frozen head.

It is made for one temperature, and the teacher is not needed any more: see finetune/distillation/loss.py: CachedGradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.distillation.signals import Signal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from finetune.training.head import Head
    from finetune.training.loss.workspace import Workspace


class Gradient(Signal):
    names = ("values", "negentropy")
    why = "the student's head is frozen"

    def problem(self, student: Head, forward_kl: bool) -> str | None:
        if not forward_kl:
            return "it works only with the objective forward_kl"
        if student.trains:
            return "the student's head is trained"
        return "the student's head is soft-capped" if student.softcap is not None else None

    def token_bytes(self, teacher: Head, student: Head | None) -> int:
        width, dtype = stored(teacher, student)
        return width * dtype.itemsize + (8 if dtype.itemsize == 8 else 4)

    def key(self, vocabulary: int, student: Head | None, temperature: float | None) -> dict[str, Any]:
        from finetune.distillation.caches.on_disk import tensors_hash

        if student is None or temperature is None:
            raise ValueError("a gradient cache is made for one student head and one temperature")
        return {"student_head": tensors_hash([student.weight[:vocabulary], student.bias]), "temperature": float(temperature)}

    def mismatch(self, key: Any, student: Head, temperature: float) -> str | None:
        if key.temperature != temperature:
            return f"This gradient cache was made at temperature {key.temperature:g}, not {temperature:g}."
        if key.student_head != self.key(key.vocabulary, student, temperature)["student_head"]:
            return "This gradient cache was made for a student with another head."
        return None

    def ask(self, hidden: Tensor, teacher: Head, student: Head | None, temperature: float, workspace: Workspace) -> tuple[Tensor, ...]:
        """q @ W [n, d] and sum q log q (less q . bias, both over T) [n]."""
        import torch

        from finetune.distillation.across_tokenizers.projected import teacher_logits
        from finetune.training.loss.chunked import block_budget, chunks, product, softmax_

        assert student is not None, "its key cannot be made without one"
        logits_of = teacher_logits("teacher", hidden, teacher, temperature)
        width, dtype = stored(teacher, student)
        centres = torch.empty(len(hidden), width, dtype=dtype, device=hidden.device)
        negentropy = torch.empty(len(hidden), dtype=logits_of.precise, device=hidden.device)
        for rows in chunks(len(hidden), 2 * logits_of.bytes_per_row, workspace.chunk_bytes(hidden.device)):
            logits_of.load(rows, workspace)
            q = workspace.take("q", (len(logits_of.chunk), student.vocabulary), hidden, student.weight.dtype)
            for part in chunks(len(q), q.shape[1] * 4, block_budget(hidden.device)):
                block = logits_of.block(part, workspace)
                logits = workspace.take("logits", block.shape, block, block.dtype).copy_(block)
                log_sum = softmax_(block)
                value = logits.mul_(block).sum(-1) - log_sum.squeeze(-1)
                if student.bias is not None:
                    value -= block @ student.bias.to(block.dtype) * (student.scale / temperature)
                negentropy[rows.start + part.start : rows.start + part.stop] = value
                q[part].copy_(block)
            centres[rows] = product(q, student.weight, logits_of.precise).to(dtype)
        return centres, negentropy


def stored(teacher: Head, student: Head | None) -> tuple[int, torch.dtype]:
    """Width and dtype of q @ W: in half precision only for a half-precision head."""
    import torch

    weight = (student or teacher).weight
    return weight.shape[1], torch.float16 if weight.dtype == torch.bfloat16 else weight.dtype
