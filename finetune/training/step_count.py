"""How many optimizer steps a training takes, as the Trainer counts them, and how several processes divide one; no torch."""

from __future__ import annotations

import math

from finetune.errors import RecipeError
from finetune.recipe import TrainingSpec

# Tokens that a CPU works on at once: its matrix products run at full speed from a few hundred rows on; a GPU wants all it can get.
CPU_TOKENS = 512


def steps_of(spec: TrainingSpec, rows: int) -> int:
    """Optimizer steps of the whole training over `rows` sequences."""
    return max(1, math.ceil(spec.passes * steps_of_epoch(rows, spec.batch_size, spec.gradient_accumulation)))


def steps_of_epoch(rows: int, batch_size: int, accumulation: int) -> int:
    """Optimizer steps of one pass over `rows` sequences."""
    return max(1, math.ceil(math.ceil(rows / batch_size) / accumulation))


def rows_of_step(spec: TrainingSpec) -> int:
    """Rows of a step in all, however many processes share them."""
    return spec.batch_size * spec.gradient_accumulation


def divided(spec: TrainingSpec, processes: int) -> tuple[int, int]:
    """Rows at a time and gradient accumulation of each process; raises RecipeError where a step cannot be divided.

    No more rows at a time than one process would have, so that what fits one device fits each of several.
    """
    rows, left = divmod(rows_of_step(spec), processes)
    if left:
        raise RecipeError(
            f"A step has {rows_of_step(spec)} rows (batch_size x gradient_accumulation), which {processes} processes cannot share equally.",
            hint=f"Choose a number of processes that divides it, or --set training.batch_size={processes}",
        )
    batch = next(size for size in range(min(spec.batch_size, rows), 0, -1) if rows % size == 0)
    return batch, rows // batch


def most_that_divide(spec: TrainingSpec, devices: int, nodes: int = 1) -> int:
    """The largest number of processes on each of so many nodes, up to `devices`, that share the rows of a step equally; 1 if none do."""
    return next((number for number in range(devices, 1, -1) if rows_of_step(spec) % (number * nodes) == 0), 1)
