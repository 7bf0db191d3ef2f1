"""A teacher with another tokenizer, compared by likelihoods of spans: pieces of text that both tokenizers begin and end (ALM, 2503.20083).

    reading = SpanReading(Alignment(student_tokenizer, teacher_tokenizer), student_head.vocabulary)
    asked = reading.batch(batch)                            # what the teacher reads, and the span of each supervised token
    said = reading.kept_values(states, asked, teacher_head)        # [n, 1]: log b of each span, at its last token
    rule = span_loss(labels, hidden, head, said, asked.where, ForwardKL(), alpha=0.2, temperature=1.0)

A span is likely or not: b for the teacher, a for the student. Any objective compares (b, 1 - b) with (a, 1 - a):

    L = alpha * CE + (1 - alpha) * T * D((b^(1/T), 1 - b^(1/T)), (a^(1/T), 1 - a^(1/T)))      CE of all its tokens, D once a span

Approximate: of the teacher's distribution only what the text says is seen. Towards high T such a D shrinks as 1 / T, hence the factor.
Tokens outside of spans learn from their labels alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor

from finetune.data.tokens.labels import NO_LOSS, labels_of
from finetune.distillation.across_tokenizers.alignment import MEASURED, NOWHERE, AlignedRow, Alignment, Share
from finetune.distillation.across_tokenizers.projected import Reading, TeacherBatch
from finetune.distillation.objectives import APPROXIMATE, Objective, divergence
from finetune.formatting import percent
from finetune.training.batches import in_main_memory, sent
from finetune.training.head import Head
from finetune.training.loss.chunked import ChunkLogits, CrossEntropy, blocks_of, softmax_
from finetune.training.loss.workspace import Workspace

LONGEST = 16  # tokens of either: a longer span is next to impossible for both, whatever they know
CERTAIN = 1e-5  # a span more likely than 1 less this counts as that likely; float32 logits cannot tell
VERSION = 1  # raise it when the same texts would give other numbers, so that caches of earlier ones are not used


@dataclass(frozen=True)
class Span:
    """The positions that predict its tokens: `ours` of the student, `theirs` of the teacher."""

    ours: range
    theirs: range


@dataclass(frozen=True)
class SpanShare(Share):
    """The same for tokens in `spans`."""

    spans: int

    def __str__(self) -> str:
        counted = f"{self.aligned:,} of {self.tokens:,} in {self.rows:,} rows"
        return (
            f"{percent(self.value)} of the supervised tokens ({counted}) are in {self.spans:,} spans that both tokenizers begin and end, "
            "whose likelihoods are compared, which is approximate"
        )


@dataclass(frozen=True)
class SpanBatch(TeacherBatch):
    """`index` [m] of the teacher's positions in spans, the `tokens` [m] that they predict, and the supervised token [m] each counts for.

    `spans` [n] are in main memory.
    """

    tokens: Tensor
    owner: Tensor
    spans: Tensor

    @property
    def where(self) -> Tensor:
        """The span of each supervised token [n], numbered through the batch, or -1."""
        return self.spans


class SpanReading(Reading):
    """How the likelihoods of spans are read of a teacher; the rest as of every teacher with another tokenizer."""

    def identity(self, teacher: str) -> str:
        return f"{teacher} spans {VERSION} {self.alignment.fingerprint}"

    def head(self, head: Head) -> Head:
        """As it is: over the teacher's own tokens."""
        return head

    def batch(self, inputs: Mapping[str, Tensor], *, mask: bool = False) -> SpanBatch:
        rows, supervised = self.rows(inputs)
        device, batch = inputs["input_ids"].device, self.padded([row.ids for row in rows], inputs, mask=mask)
        width, (all_ids, all_labels) = batch["input_ids"].shape[1], (tensor.tolist() for tensor in in_main_memory(inputs).values())
        index: list[int] = []
        tokens: list[int] = []
        owner: list[int] = []
        spans: list[int] = []
        count = 0
        for number, (row, places) in enumerate(zip(rows, supervised, strict=True)):
            slots = {place: len(spans) + slot for slot, place in enumerate(places)}
            spans += [NOWHERE] * len(places)
            for span in spans_of(self.alignment, row, all_ids[number], all_labels[number]):
                for place in span.ours:
                    spans[slots[place]] = count
                index += [number * width + place for place in span.theirs]
                tokens += [row.ids[place + 1] for place in span.theirs]
                owner += [slots[span.ours[-1]]] * len(span.theirs)
                count += 1
        there, where, of = (sent(torch.tensor(numbers, dtype=torch.long), device) for numbers in (index, tokens, owner))
        spanned = torch.tensor(spans, dtype=torch.long)
        return SpanBatch(batch, there, spanned != NOWHERE, where, of, spanned)

    def joined(self, rows: Sequence[Tensor]) -> Tensor:
        found, count = [], 0
        for row in rows:
            inside = row[row != NOWHERE]  # numbered one after the other
            first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, -1)
            found.append(torch.where(row == NOWHERE, NOWHERE, row - first + count))
            count += last - first + 1
        return torch.cat(found)

    def kept_values(self, states: Tensor, asked: TeacherBatch, head: Head, workspace: Workspace | None = None) -> Tensor:
        """log b of each span [n, 1] at its last token, 0 elsewhere, for states [m, d] of the teacher."""
        assert isinstance(asked, SpanBatch)
        each = log_likelihoods("teacher", states, head, asked.tokens, workspace or Workspace())
        return each.new_zeros(len(asked.spans)).index_add_(0, asked.owner, each)[:, None]

    def measure(self, rows: Sequence[Any]) -> Share:
        aligned = tokens = longest = count = 0
        looked_at = list(islice(iter(rows), MEASURED))
        for row in looked_at:
            ids, labels = list(row["input_ids"]), list(labels_of(row))
            read = self.alignment.row(ids)
            found = list(spans_of(self.alignment, read, ids, labels))
            aligned, count = aligned + sum(len(span.ours) for span in found), count + len(found)
            tokens += sum(label != NO_LOSS for label in labels[1:])
            longest = max(longest, len(read.ids))
        return SpanShare(aligned, tokens, len(looked_at), longest, count)


def spans_of(alignment: Alignment, row: AlignedRow, ids: Sequence[int], labels: Sequence[int]) -> Iterator[Span]:
    """The spans of a row whose tokens are all supervised, in order: none with a special token that the teacher has not."""
    unknown = alignment.content.keys() - alignment.counterpart.keys()
    for (ours, theirs), (our_end, their_end) in pairwise(row.boundaries):
        places = range(ours + 1, our_end + 1)
        if len(places) > LONGEST or their_end - theirs > LONGEST:
            continue
        if all(labels[place] != NO_LOSS and ids[place] not in unknown for place in places):
            yield Span(range(ours, our_end), range(theirs, their_end))


@torch.no_grad()
def log_likelihoods(name: str, hidden: Tensor, head: Head, labels: Tensor, workspace: Workspace) -> Tensor:
    """log p of each label [n] at temperature 1, in full precision, for states [n, d]."""
    logits = ChunkLogits(name, hidden.detach(), head, 1.0)  # its products run in autocast's dtype, all else in full precision
    with torch.autocast(hidden.device.type, enabled=False):
        found = torch.empty(len(hidden), dtype=logits.precise, device=hidden.device)
        for rows, block in blocks_of(logits, workspace):
            picked = block.gather(1, labels[rows, None])
            found[rows] = (picked - softmax_(block)).squeeze(1)
    return found


class SpanLoss(CrossEntropy):
    """Cross-entropy whose gradient is weighed by token: dL/d(log p) of each is less its weight [n]; `values` [n] sum to the loss."""

    def __init__(self, labels: Tensor, weights: Tensor, values: Tensor, sums: dict[str, Tensor]) -> None:
        super().__init__(labels)
        self.gain, self.values, self.sums = weights, values, sums

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        super().__call__(logits, rows, workspace)
        return self.values[rows].sum()

    def fused(self, logits: Tensor, rows: slice, workspace: Workspace, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return super().fused(logits, rows, workspace, dtype)[0], self.values[rows].sum()


@torch.no_grad()
def span_loss(
    labels: Tensor,
    hidden: Tensor,
    head: Head,
    said: Tensor,
    spans: Tensor,
    objective: Objective,
    *,
    alpha: float,
    temperature: float,
    workspace: Workspace | None = None,
) -> SpanLoss:
    """The rule for states [n, d] of the student; `said` [n, 1] and `spans` [n], in main memory, as a SpanReading gives them.

    It runs the student's head once without a gradient: what a token weighs depends on all tokens of its span.
    """
    log_p = log_likelihoods("student", hidden, head, labels, workspace or Workspace())
    places = (spans != NOWHERE).nonzero().squeeze(1)
    count = int(spans.max()) + 1 if len(places) else 0
    inside, of = sent(places, log_p.device), sent(spans[places], log_p.device)
    empty = log_p.new_zeros(count)
    log_a = empty.index_add(0, of, log_p[inside]) / temperature
    log_b = empty.index_add(0, of, said[inside, 0].to(log_p)) / temperature
    value, slope = compared(objective, log_a, log_b)
    tokens = empty.index_add(0, of, torch.ones_like(log_p[inside]))
    weights = torch.ones_like(log_p)  # of the labels
    weights[inside] = alpha
    values = -log_p * weights
    values[inside] += (1 - alpha) * temperature * (value / tokens)[of]
    weights[inside] -= (1 - alpha) * slope[of]
    return SpanLoss(labels, weights, values, {"ce": -log_p.sum(), APPROXIMATE: value.sum()})


def compared(objective: Objective, log_a: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor]:
    """D of (b, 1 - b) against (a, 1 - a) for each span [s], and its derivative by log a [s]."""
    if not len(log_a):
        return log_a, log_a
    most = torch.log1p(torch.tensor(-CERTAIN, dtype=log_a.dtype))
    logs = [torch.stack((log, (-torch.expm1(log)).log()), 1) for log in (log_a.clamp(max=most), log_b.clamp(max=most))]
    p, q = (log.exp() for log in logs)
    unlikely = p[:, 1].clone()
    value = divergence(objective, p, q, logs[0] - logs[1], p.new_zeros(len(p), 1), each=True)
    return value, p[:, 0] / unlikely  # the gradient by the logit of (a, 1 - a) is a (1 - a) dD/da
