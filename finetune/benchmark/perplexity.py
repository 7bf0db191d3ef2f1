"""Perplexity of the reference answers: how well a model predicts the held-out text.

    losses = answer_losses(model, rows, reporter=reporter, stage="benchmark")
    Perplexity().compute(predictions=losses.sums, references=losses.tokens)      # {"perplexity": 14.2}

Rows go through the model one at a time: no padding, so a row's loss never depends on other rows; and the head sees only
labelled positions, a few hundred at a time, so no [length, vocabulary] buffer is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import evaluate
import torch

from finetune.benchmark.teacher_agreement import TeacherStates, compare, precise_sum
from finetune.data.tokens.labels import NO_LOSS
from finetune.errors import BenchmarkError
from finetune.events import Progress, Reporter
from finetune.training.head import Head, head_of, hidden_states

CHUNK_BYTES = 64 << 20  # of float32 logits


class Perplexity(evaluate.Metric):  # type: ignore[misc]
    """exp of the total loss over the total tokens; `predictions` are row sums of losses in nats, `references` row token counts."""

    reads: ClassVar[str] = "losses"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Token-weighted perplexity of the reference answers.",
            citation="Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, 1977",
            inputs_description="predictions: each row's summed negative log-likelihood (nats); references: each row's tokens",
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        mean = sum(predictions) / sum(references)
        if mean > math.log(torch.finfo(torch.float64).max):
            raise BenchmarkError(
                f"The perplexity overflows: {mean:.0f} nats per token.", hint="The model is broken. Train again with a lower learning rate."
            )
        return {"perplexity": math.exp(mean)}


@dataclass
class AnswerLosses:
    """One entry per row: summed negative log-likelihood in nats, supervised tokens, and against a teacher the summed
    KL(teacher || model) in nats and the tokens for which both have the same top token."""

    sums: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    agreed: list[int] = field(default_factory=list)


@torch.inference_mode()
def answer_losses(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    reporter: Reporter,
    stage: str,
    teacher: TeacherStates | None = None,
    remember: TeacherStates | None = None,
) -> AnswerLosses:
    """The loss of every row's labelled tokens, compared with `teacher` if given; the model's own hidden states are added to `remember`.

    Raises BenchmarkError if a row's loss is not finite.
    """
    head, found = head_of(model), AnswerLosses()
    for number, row in enumerate(rows):
        hidden, labels = supervised(model, row)
        loss = sum(cross_entropy(head, hidden[part], labels[part]) for part in parts(len(hidden), head))
        if not math.isfinite(loss):
            raise BenchmarkError(
                f"The model's loss on held-out row {number + 1} is NaN or infinite.", hint="Half precision may overflow: try float32."
            )
        found.sums.append(loss)
        found.tokens.append(len(labels))
        if teacher is not None:
            if len(teacher.rows) != len(rows) or len(teacher.rows[number]) != len(hidden):
                raise BenchmarkError(
                    "The teacher's scores are from different rows.", hint="Score it again on the same data, rows and seed."
                )
            theirs = teacher.head_of_row(number)
            pairs = [compare(head, hidden[part], theirs, teacher.rows[number][part]) for part in parts(len(hidden), head)]
            found.divergences.append(sum(divergence for divergence, _ in pairs))
            found.agreed.append(sum(agreed for _, agreed in pairs))
        if remember is not None:
            remember.rows.append(hidden.cpu())
        reporter.report(Progress(stage, number + 1, len(rows), "rows scored"))
    return found


def supervised(model: Any, row: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [n, d] and labels [n] of the positions whose next token is labelled."""
    device = next(model.parameters()).device
    labels = torch.tensor(row["labels"], device=device)[1:]  # the state at i predicts token i+1
    hidden = hidden_states(model, torch.tensor([row["input_ids"]], device=device))[0, :-1]
    kept = labels != NO_LOSS
    return hidden[kept], labels[kept]


def parts(positions: int, head: Head) -> list[slice]:
    """Consecutive slices of positions whose float32 logits are within CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // (4 * head.vocabulary))
    return [slice(start, start + step) for start in range(0, positions, step)]


def cross_entropy(head: Head, hidden: torch.Tensor, labels: torch.Tensor) -> float:
    """Summed negative log-likelihood of the labels in nats; logits in float32, their sum in float64."""
    losses = torch.nn.functional.cross_entropy(head.logits(hidden).float(), labels, reduction="none")
    return precise_sum(losses)
