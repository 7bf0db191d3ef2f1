"""Rows on which several models are measured: drawn by seed, the same for all, in the tokens of each.

chosen = drawn(rows, spec, most=50, seed=42)                  # sorted row numbers
to_measure(rows, chosen, spec, tokenizer).rows[0]             # like the held-out rows of a run
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data import tokenized
from finetune.data.prepare import measured_row
from finetune.data.reading import Rows
from finetune.data.row_overlap import RowHashes
from finetune.data.rows import RowProblem
from finetune.data.thinking import decide
from finetune.data.tokens.encoder import Encoder
from finetune.data.tool_calls import first_call
from finetune.recipe import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class ToMeasure:
    """For each chosen record its rows: several of a long text, none where the model cannot take it, which `refused` gives a reason for.

    `cut` counts the rows that were too long.
    """

    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cut: int = 0


def drawn(rows: Rows, spec: DatasetSpec, *, most: int, seed: int) -> np.ndarray:
    """At most `most` row numbers of all rows, or of `spec.samples` of them, in the order of the data."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return np.sort(order[: min(most, spec.samples or len(rows))])


def to_measure(
    rows: Rows, chosen: np.ndarray, spec: DatasetSpec, tokenizer: PreTrainedTokenizerBase, *, thinking: bool | None = None
) -> ToMeasure:
    """The chosen rows in the tokens of a model, only answers with a loss; raises BadRow for rows that are tokens of another model.

    `thinking` says whether the model is asked to think before it answers; None decides by the rows.
    """
    if thinking is None:
        thinking = bool(decide(tokenizer, rows, chosen).thinking)
    encoder = Encoder(tokenizer, max_length=spec.max_length, supervise="answers", thinking=thinking)
    found = ToMeasure()
    known = RowHashes.of(rows)
    one = len(np.unique(known.prompts)) == 1  # nothing else is asked, and the rows are what differs
    groups = (known.rows[chosen] if one else known.together(chosen)).tolist()
    for group, (record, result) in zip(groups, tokenized.encoded(encoder, rows, chosen), strict=True):
        learnable = [] if isinstance(result, RowProblem) else [sequence for sequence in result if sequence.supervised]
        if not learnable:
            why = str(result) if isinstance(result, RowProblem) else "no token of its answer fits"
            found.refused.append(f"{rows.facts.files[record['file']]} line {record['line']}: {why}")
        found.cut += sum(sequence.prompt_cut or sequence.answer_cut for sequence in learnable)
        call = first_call(encoder, record) if learnable else None
        found.rows.append([measured_row(sequence, record, tokenizer, call) | {"group": group} for sequence in learnable])
    return found
