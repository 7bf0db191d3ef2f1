"""What the makers of students look at: the first rows of the data, about a thousand tokens of them.

for states in calibrated(model, rows): ...      # the last hidden states [1, length, d] of each row, hooks called on the way
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from finetune.distillation.students import Rows
from finetune.errors import RecipeError
from finetune.training.head import hidden_states, token_ids

CALIBRATION_TOKENS = 1024
ROW_TOKENS = 256


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
