"""Whether a system prompt changes what the teacher says: of one that it does not follow there is nothing to learn.

about_prompt(teacher, prepared.held_out).text        # "The system prompt moves the teacher by a KL of 0.41 per token."
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.tokens.labels import NO_LOSS
from finetune.data.tokens.system_prompt import as_teacher_sees
from finetune.distillation.loss import Distillation
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.distillation.pair_checks import Finding
from finetune.training.chunked_loss import ChunkLogits, chunked_loss
from finetune.training.head import head_of, hidden_states, token_ids

ROWS = 4
HARDLY = 0.02  # KL per token: a prompt that is followed moves a model by ten times as much and more


@torch.no_grad()
def about_prompt(teacher: nn.Module, rows: Any) -> Finding:
    """From the answers of a few rows: KL(behind the prompt || without it), the mean over their tokens."""
    head, total, tokens = head_of(teacher).detach(), 0.0, 0
    for row in islice(iter(rows), ROWS):
        told, bare = _answer_states(teacher, as_teacher_sees(row)), _answer_states(teacher, row)
        labels = torch.zeros(len(bare), dtype=torch.long, device=bare.device)
        total += float(chunked_loss(bare, head, Distillation(labels, ChunkLogits("teacher", told, head, 1.0), ForwardKL(), 0.0, 1.0)))
        tokens += len(bare)
    moved = total / max(1, tokens)
    if moved >= HARDLY:
        return Finding("ok", f"The system prompt moves the teacher by a KL of {moved:.2f} per token.")
    return Finding(
        "warning",
        f"The system prompt hardly changes what the teacher says (a KL of {moved:.3f} per token): there is little to learn from it.",
        "Say it more plainly, or choose a teacher that follows it.",
    )


def _answer_states(model: nn.Module, row: Any) -> Tensor:
    states = hidden_states(model, token_ids(model, list(row["input_ids"])))[0, :-1]
    return states[torch.tensor(row["labels"][1:], device=states.device) != NO_LOSS]
