"""How far a student is from its teacher on calibration rows: the mean KL(teacher || student) of a token, in nats, at temperature 1.

    closeness = Closeness(teacher, rows)
    closeness.of(student)               # 1.17
    rate = rate_for(student, teacher, rows)
    rate.value, rate.said               # 2e-4, "Learning rate 0.0002: the student begins at a KL of 1.17 ..., near its teacher ..."

The learning rate of a student follows from it: one that lost most of its abilities has to take large steps; one that is nearly right is
thrown back by them. Measured in benchmarks/programme.py: see docs/log.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.distillation.students import Rows
from finetune.distillation.students.calibration import calibrated
from finetune.training.head import head_of

BROKEN = 2.0  # nats per token: a student that begins farther from its teacher has to learn almost everything again
OF_BROKEN, OF_CLOSE = 5e-4, 2e-4


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


@dataclass(frozen=True)
class Rate:
    """A learning rate, the mean KL(teacher || student) that it follows from, and one sentence for people."""

    value: float
    kl: float
    said: str


def rate_for(student: Any, teacher: Any, rows: Any) -> Rate:
    """Runs both over calibration rows."""
    return rate_at(Closeness(teacher, rows).of(student))


def rate_at(kl: float) -> Rate:
    """Of a student whose distance is known."""
    if kl >= BROKEN:
        value, where = OF_BROKEN, f"far from its teacher (below {BROKEN:g} it would be {OF_CLOSE:g})"
    else:
        value, where = OF_CLOSE, f"near its teacher (from {BROKEN:g} on it would be {OF_BROKEN:g})"
    return Rate(value, kl, f"Learning rate {value:g}: the student begins at a KL of {kl:.2f} on calibration rows, {where}.")
