"""The teachers of a training: each a model, a cache that it has written, or both.

Teacher(model, tokenizer=tokenizer).head(cached=False)
shares([1, 3], 2)                   # [0.25, 0.75]: several are mixed by weights that sum to one
runs_of([0, 0, 1])                  # [(0, slice(0, 2)), (1, slice(2, 3))]: or each row has the number of its teacher
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import Any

from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.caches.read_ahead import ReadAhead
from finetune.distillation.teachers.itself import as_teacher
from finetune.errors import RecipeError
from finetune.formatting import counted
from finetune.training.head import Head, head_of


@dataclass
class Teacher:
    """`model` or `cache`, or both; `kept_head` is the head beside the states of a cache, on the device of the run.

    One with another tokenizer than the student's has a `reading`. A cache for a GPU is read `ahead`.
    """

    model: Any = None
    cache: TeacherCache | None = None
    tokenizer: Any = None
    masks: bool = False
    kept_head: Head | None = None
    reading: Reading | None = None
    ahead: ReadAhead | None = None

    def head(self, *, cached: bool) -> Head:
        """Over the student's tokens."""
        if cached and self.kept_head is not None:
            head = self.kept_head
        else:
            with as_teacher(self.model) as model:
                head = head_of(model).detach()
        return head if self.reading is None else self.reading.head(head)


def listed(given: Any) -> list[Any]:
    """A list as it is, one thing as a list of it, nothing as an empty one."""
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights of `count` teachers, scaled to sum to one; equal if none are given. RecipeError for others than positive numbers."""
    if weights is None:
        return [1 / count] * count if count else []  # from the data alone
    if len(weights) != count:
        raise RecipeError(f"{counted(count, 'teacher', 'have')} {counted(len(weights), 'weight')}.", hint="Give each teacher one weight.")
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight) or weight <= 0:
            raise RecipeError(
                f"A teacher's weight must be a number above 0, not {weight!r}.", hint="Leave out a teacher that says nothing."
            )
    return [weight / sum(weights) for weight in weights]


def runs_of(teachers: Sequence[int]) -> list[tuple[int, slice]]:
    """Each run of rows of one teacher in a batch: its number, and its rows."""
    runs, start = [], 0
    for teacher, run in groupby(teachers):
        runs.append((teacher, slice(start, start + len(list(run)))))
        start = runs[-1][1].stop
    return runs


def check_routes(numbers: Sequence[int], teachers: int, rows: int) -> None:
    """Raises RecipeError unless each row has the number of a teacher."""
    if len(numbers) != rows:
        raise RecipeError(f"teacher_rows names the teachers of {len(numbers)} rows, and there are {rows}.", hint="Give each row a number.")
    if wrong := next((number for number in numbers if not 0 <= number < teachers), None):
        raise RecipeError(f"There is no teacher {wrong}: there are {teachers}, counted from 0.")
