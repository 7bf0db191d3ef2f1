"""What the makers of students look at: the first rows of the data, about a thousand tokens of them.

for states in calibrated(model, rows): ...      # the last hidden states [1, length, d] of each row, hooks called on the way
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from finetune.distillation.students import CALIBRATION_TOKENS, Rows
from finetune.errors import RecipeError
from finetune.events import Progress, Reporter
from finetune.training.head import hidden_states, token_ids

ROW_TOKENS = 256


class Watched:
    """The rows that models are run over, `passes` times at most; how far they are is the progress of the stage "student"."""

    def __init__(self, rows: Rows, passes: int, reporter: Reporter) -> None:
        self.rows: list[list[int]] = []
        self.reporter, self.done = reporter, 0
        tokens = 0
        for row in rows:
            self.rows.append(list(row["input_ids"])[:ROW_TOKENS])
            tokens += len(self.rows[-1])
            if tokens >= CALIBRATION_TOKENS:
                break
        self.total = passes * tokens

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        for ids in self.rows:
            self.done += len(ids)
            self.reporter.report(Progress("student", self.done, self.total, "tokens"))
            yield {"input_ids": ids}


@torch.no_grad()
def calibrated(model: nn.Module, rows: Rows) -> Iterator[Tensor]:
    """Run the model over calibration rows; raises RecipeError if there are none."""
    tokens = 0
    for row in rows:
        states = hidden_states(model, token_ids(model, list(row["input_ids"])[:ROW_TOKENS]))
        tokens += states.shape[1]
        yield states
        if tokens >= CALIBRATION_TOKENS:
            return
    if not tokens:
        raise RecipeError("A student made from the teacher needs calibration rows, but there are none.")
