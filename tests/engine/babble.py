"""A model that writes random words and ends them, so that rows can be had from it in milliseconds; and a shop of runs that use it.

folder = babbling_folder(tmp_path / "talker")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from letters import LETTERS, VOCABULARY, llama, tokenizer

END = 1 / 15  # how likely a text ends after each letter


def babbling_folder(folder: Path, *, end: float = END) -> Path:
    """A model of one layer whose next letter does not depend on anything, as from_pretrained wants it."""
    made = tokenizer(chat=True)
    model = llama(layers=3, hidden_size=64)
    odds = torch.full((VOCABULARY,), 1e-9)
    odds[made.convert_tokens_to_ids(list(LETTERS))] = (1 - end) / (len(LETTERS) + 5)
    odds[made.convert_tokens_to_ids(" ")] *= 6
    odds[made.convert_tokens_to_ids("<|end|>")] = max(end, 1e-9)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY, 64))
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :VOCABULARY] = odds.log()[:, None] / 64**0.5  # the norm makes a one an eight
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def writing(folder: Path, **dataset: Any) -> dict[str, Any]:
    """Recipe keys of a distillation whose teacher, in `folder`, writes the rows."""
    return {"teacher": str(folder), "dataset": {"source": "generated", "samples": 24, "max_length": 64, "held_out": 0.25, **dataset}}
