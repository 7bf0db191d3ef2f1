"""Perplexity of the reference answers: how little the held-out text surprises a model.

    losses = answer_losses(model, rows, reporter=reporter, stage="benchmark")
    Perplexity().compute(predictions=losses.sums, references=losses.tokens)      # {"perplexity": 14.2}

Rows go through the model one at a time: no padding, so a row's number never depends on its neighbours; and the head sees only
positions that carry a label, a few hundred at a time, so no [length, vocabulary] buffer is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import evaluate
import torch

from finetune.errors import BenchmarkError
from finetune.events import Progress, Reporter
from finetune.training.head import Head, head_of, hidden_states

IGNORED = -100
CHUNK_BYTES = 64 << 20  # of float32 logits


class Perplexity(evaluate.Metric):
    """exp of the total loss over the total tokens; `predictions` are row sums of losses in nats, `references` row token counts."""

    reads: ClassVar[str] = "losses"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Token-weighted perplexity of the reference answers.",
            citation="",
            inputs_description="predictions: each row's summed negative log-likelihood (nats); references: each row's tokens",
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        return {"perplexity": math.exp(sum(predictions) / sum(references))}


@dataclass
class AnswerLosses:
    """One entry a row: summed negative log-likelihood in nats, and supervised tokens."""

    sums: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


@torch.inference_mode()
def answer_losses(model: Any, rows: Sequence[Mapping[str, Any]], *, reporter: Reporter, stage: str) -> AnswerLosses:
    """The loss of every row's labelled tokens; raises BenchmarkError if a row gives a number that is not finite."""
    head, found = head_of(model), AnswerLosses()
    for number, row in enumerate(rows, start=1):
        hidden, labels = supervised(model, row)
        loss = sum(float(cross_entropy(logits, labels[part])) for part, logits in logit_chunks(hidden, head))
        if not math.isfinite(loss):
            raise BenchmarkError(
                f"The model's loss on held-out row {number} is not a number.",
                hint="Its weights or its half precision overflow: try float32.",
            )
        found.sums.append(loss)
        found.tokens.append(len(labels))
        reporter.report(Progress(stage, number, len(rows), "rows scored"))
    return found


def supervised(model: Any, row: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [n, d] and labels [n] of the positions whose next token carries a label."""
    device = next(model.parameters()).device
    labels = torch.tensor(row["labels"], device=device)[1:]  # the state at i predicts token i+1
    hidden = hidden_states(model, torch.tensor([row["input_ids"]], device=device))[0, :-1]
    kept = labels != IGNORED
    return hidden[kept], labels[kept]


def logit_chunks(hidden: torch.Tensor, head: Head) -> Iterator[tuple[slice, torch.Tensor]]:
    """float32 logits [rows, vocabulary] of consecutive slices of positions, each within CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
    for start in range(0, len(hidden), step):
        part = slice(start, start + step)
        yield part, head.logits(hidden[part]).float()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood in nats, in float64."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().sum()
