"""How many optimizer steps a training takes, as the Trainer counts them; no torch."""

from __future__ import annotations

import math

from finetune.recipe import TrainingSpec

# Tokens that a CPU works on at once: its matrix products run at full speed from a few hundred rows on; a GPU wants all it can get.
CPU_TOKENS = 512


def steps_of(spec: TrainingSpec, rows: int) -> int:
    """Optimizer steps of the whole training over `rows` sequences."""
    micro_batches = math.ceil(rows / spec.batch_size)
    return max(1, math.ceil(spec.passes * max(1, math.ceil(micro_batches / spec.gradient_accumulation))))
