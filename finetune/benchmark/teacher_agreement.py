"""How closely a student follows its teacher on held-out rows, without both models in memory.

    states = TeacherStates(head_of(teacher))
    answer_losses(teacher, rows, remember=states, ...)          # keeps the teacher's last hidden states; its body can go
    answer_losses(student, rows, teacher=states, ...).divergences

Per position d numbers are kept instead of one per token of the vocabulary (SmolLM2: 2 KB instead of 197 KB), and the teacher's head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from finetune.training.head import Head


@dataclass
class TeacherStates:
    """The teacher's last hidden states [n, d] at the supervised positions of every row, in its own dtype, and its head.

    Where rows have teachers of their own there is a head for each row in `heads`.
    """

    head: Head
    rows: list[torch.Tensor] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)

    def head_of_row(self, number: int) -> Head:
        return self.heads[number] if self.heads else self.head


def compare(student: Head, ours: torch.Tensor, teacher: Head, theirs: torch.Tensor) -> tuple[float, int]:
    """Summed KL(teacher || student) in nats at temperature 1, and the number of positions with the same top token.

    Vocabularies that are padded differently are compared on the ids that both have.
    """
    shared = min(student.vocabulary, teacher.vocabulary)
    taught = teacher.first(shared).logits(theirs.to(teacher.weight.device)).float().log_softmax(-1)
    learnt = student.first(shared).logits(ours).float().log_softmax(-1).to(taught.device)
    agreed = int((taught.argmax(-1) == learnt.argmax(-1)).sum())
    divergence = torch.nn.functional.kl_div(learnt, taught, reduction="none", log_target=True)
    return precise_sum(divergence), agreed


def precise_sum(values: torch.Tensor) -> float:
    """The sum in float64, which not every device has (Apple's GPUs): taken on the CPU."""
    return float(values.cpu().numpy().sum(dtype=np.float64))
