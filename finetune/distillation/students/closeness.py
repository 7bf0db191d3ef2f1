"""How far a student is from its teacher on calibration rows: the mean KL(teacher || student) of a token, in nats, at temperature 1.

closeness = Closeness(teacher, rows)
closeness.of(student)          # 1.17
"""

from __future__ import annotations

import torch
from torch import nn

from finetune.distillation.students import Rows
from finetune.distillation.students.calibration import calibrated
from finetune.training.head import head_of


class Closeness:
    """Runs the teacher once; each student is then run over the same rows."""

    def __init__(self, teacher: nn.Module, rows: Rows) -> None:
        self.rows, self.head = rows, head_of(teacher).detach()
        self.states = [states[0] for states in calibrated(teacher, rows)]

    @torch.no_grad()
    def of(self, student: nn.Module) -> float:
        """Vocabularies that are padded differently are compared on the ids that both have."""
        head = head_of(student).detach()
        shared = min(head.vocabulary, self.head.vocabulary)
        ours, theirs = head.first(shared), self.head.first(shared)
        total = tokens = 0.0
        for states, taught in zip(calibrated(student, self.rows), self.states, strict=True):
            learnt = ours.logits(states[0]).float().log_softmax(-1)
            wanted = theirs.logits(taught.to(states.device)).float().log_softmax(-1).to(learnt.device)
            total += float(nn.functional.kl_div(learnt, wanted, reduction="sum", log_target=True))
            tokens += len(learnt)
        return total / tokens
