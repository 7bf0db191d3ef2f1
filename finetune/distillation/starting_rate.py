"""The learning rate of a student, by its KL divergence from the teacher before training.

    rate = rate_for(student, teacher, rows)
    rate.value, rate.said           # 2e-4, "Learning rate 2e-04: the student begins near its teacher, ..."

A student that lost most of its abilities has to take large steps; one that is nearly right is thrown back by them.
Measured in benchmarks/programme.py: see docs/log.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.distillation.students.closeness import Closeness

BROKEN = 2.0  # nats per token: a student that begins farther from its teacher has to learn almost everything again
OF_BROKEN, OF_CLOSE = 5e-4, 2e-4


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
