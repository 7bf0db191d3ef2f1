"""Asking the teachers of a training about a batch: a model in memory runs, and a cache is read.

    teachers = Teachers([Teacher(model)], [1.0], student_head.vocabulary, features, pad_id=0)
    output = teachers.ask(batch, device, workspace)      # HiddenStates, or what else the signal of a cache keeps
    output.logits(temperature=2.0)

Which loss compares the student with it: finetune/distillation/trainer.py: DistillationTrainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.system_prompt import as_teacher_sees
from finetune.distillation.across_tokenizers.projected import teacher_logits
from finetune.distillation.across_tokenizers.spans import SpanReading
from finetune.distillation.teachers.correction import margins
from finetune.distillation.teachers.itself import as_teacher
from finetune.distillation.teachers.mixture import added, joined
from finetune.distillation.teachers.model_or_cache import Teacher, runs_of
from finetune.distillation.terms.features import Features
from finetune.training.batches import KNOWN, Supervised, lengths_of, row_numbers, sent, some_rows, supervised_counts
from finetune.training.head import Head
from finetune.training.loss.chunked import ChunkLogits
from finetune.training.loss.workspace import Workspace
from finetune.training.trainer import run_backbone


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """`values` [n, ...] are the hidden states of the first teacher, or what its cache has instead.

    `aligned` [n], in main memory, says which tokens are compared with a teacher; None if all are.
    """

    values: Tensor
    aligned: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class HiddenStates(TeacherOutput):
    """Of each run of tokens its teacher's number, that one's last states [m, d], and the head that makes logits of them."""

    runs: list[tuple[int, Tensor, Head]]

    @property
    def starts(self) -> list[int]:
        """The first token of each run, where they follow each other."""
        return [0, *accumulate(len(states) for _, states, _ in self.runs)][:-1]

    def logits(self, temperature: float) -> list[ChunkLogits]:
        """Those of each run, over the student's tokens."""
        return [
            teacher_logits(f"teacher {number}" if number else "teacher", states, head, temperature) for number, states, head in self.runs
        ]


@dataclass(frozen=True, kw_only=True)
class GradientCentres(TeacherOutput):
    """What a gradient cache has (loss.py: CachedGradient): `values` [n, d] are its centres; of several teachers those of the mixture."""

    negentropy: Tensor


@dataclass(frozen=True, kw_only=True)
class TopTokens(TeacherOutput):
    """The teacher's likeliest tokens `ids` [n, k]; `values` [n, k + 1] are the log-probabilities of each, and of all others together."""

    ids: Tensor


@dataclass(frozen=True, kw_only=True)
class SpanLikelihoods(TeacherOutput):
    """Of a teacher with another tokenizer: `values` [n, 1], and `spans` [n] in main memory, as a SpanReading gives them."""

    spans: Tensor


AnyOutput = HiddenStates | GradientCentres | TopTokens | SpanLikelihoods


class Teachers:
    """The teachers of a training, placed beside its student: all are asked about every token, or `routed` each about its own rows.

    `weights` are those of a mixture, `vocabulary` is how many leading ids they share with the student, `features` are what is compared of
    a teacher's inside. Where teachers see a system prompt, `told` has the training rows and after them those held out.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        weights: Sequence[float],
        vocabulary: int,
        features: Features,
        *,
        pad_id: int,
        routed: bool = False,
        told: Sequence[Any] = (),
    ) -> None:
        self._each = list(teachers)
        self.weights, self.vocabulary, self.features, self.routed = weights, vocabulary, features, routed
        self._pad_id, self._told = pad_id, told

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, number: int) -> Teacher:
        return self._each[number]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._each)

    def can_be_asked(self, inputs: Mapping[str, Any]) -> bool:
        """Whether there is a teacher for this batch: rows of an evaluation are in no cache, and have no teacher of their own."""
        if (self.routed and "teacher_number" not in inputs) or (self._told and "row" not in inputs):
            return False  # whose rows they are, or what the teacher sees instead, is known of the training rows only
        return bool(self) and (self._cached(inputs) or all(teacher.model is not None for teacher in self))

    def ask(self, inputs: dict[str, Any], device: torch.device, workspace: Workspace) -> AnyOutput:
        """What they say about the supervised tokens of a batch, on the device where the student's states are."""
        first, cached, runs = self[0], self._cached(inputs), self._runs(inputs)
        outputs, compared = [], []
        for number, rows in runs:
            some = inputs if rows is None else some_rows(inputs, rows)
            found, where = self._read(self[number], some) if cached else self._run(self[number], some, workspace)
            outputs.append([each.to(device) for each in found])
            compared.append(torch.ones(len(found[0]), dtype=torch.bool) if where is None else where)
        values, *more = outputs[0]
        if isinstance(first.reading, SpanReading):
            return SpanLikelihoods(values=values, spans=compared[0])
        signal = first.cache.signal if cached and first.cache else None  # all caches are of one kind
        if signal and signal.of_server:
            return TopTokens(values=values, ids=more[0])
        each = torch.cat(compared if self.routed else compared[:1])
        aligned = None if bool(each.all()) else each
        if signal and not signal.keeps_head:
            pairs = [(centres, negentropy) for centres, negentropy in outputs]
            values, negentropy = joined(pairs) if self.routed else added(pairs, self.weights)
            return GradientCentres(values=values, negentropy=negentropy, aligned=aligned)
        heads = [self[number].head(cached=cached).first(self.vocabulary) for number, _ in runs]
        of_runs = [(number, states, head) for (number, _), (states,), head in zip(runs, outputs, heads, strict=True)]
        return HiddenStates(values=values, runs=of_runs, aligned=aligned)

    def margins(self, inputs: dict[str, Any], labels: Tensor, output: TeacherOutput, workspace: Workspace) -> Tensor:
        """How far the first choice of the one teacher is ahead of each label [n]; `output` is what it said of them."""
        (teacher,) = self
        if self._cached(inputs) and teacher.cache:
            return sent(teacher.cache.read(row_numbers(inputs), supervised_counts(inputs), ["margins"])[0], output.values.device)
        return margins(output.values, teacher.head(cached=False).first(self.vocabulary), labels, workspace)

    def read_ahead(self, batches: Sequence[dict[str, Any]]) -> None:
        """Begin to read what caches have about the batches of a step."""
        known = [batch for batch in batches if KNOWN in batch and "row" in batch]
        for number, teacher in enumerate(self):
            if teacher.ahead is not None:
                runs = [(batch, rows or slice(None)) for batch in known for asked, rows in self._runs(batch) if asked == number]
                inside = [asked for batch in known for asked in self.features.ahead(*self._numbers(batch))]
                teacher.ahead.begin([*((row_numbers(batch)[rows], supervised_counts(batch)[rows], ()) for batch, rows in runs), *inside])

    def _cached(self, inputs: Mapping[str, Any]) -> bool:
        return "row" in inputs and all(teacher.cache is not None for teacher in self)

    def _runs(self, batch: Mapping[str, Any]) -> Sequence[tuple[int, slice | None]]:
        """Who is asked about which rows of a batch: a routed teacher about its own, run by run, the others all about all of them."""
        everybody = [(number, None) for number in range(len(self))]
        return runs_of(row_numbers(batch, "teacher_number")) if self.routed else everybody

    def _numbers(self, batch: Mapping[str, Any]) -> tuple[list[int], list[int], list[int]]:
        """Of each row of a batch its number, its supervised tokens and its length."""
        return row_numbers(batch), supervised_counts(batch), lengths_of(batch, self._pad_id)

    # Both give tensors [n, ...] of some rows and, for a teacher with another tokenizer, which tokens are compared, or the span of each [n].

    def _read(self, teacher: Teacher, inputs: dict[str, Any]) -> tuple[list[Tensor], Tensor | None]:
        """What the cache of a teacher has."""
        source = teacher.ahead or teacher.cache
        assert source is not None
        where = teacher.reading.where(row_numbers(inputs), inputs) if teacher.reading else None
        found = source.read(row_numbers(inputs), supervised_counts(inputs))
        if self.features.kept:
            self.features.read(source, *self._numbers(inputs))
        return [sent(part, inputs["labels"].device) for part in found], where

    def _run(self, teacher: Teacher, inputs: dict[str, Any], workspace: Workspace) -> tuple[list[Tensor], Tensor | None]:
        """What a teacher in memory says."""
        asked = teacher.reading.batch(inputs, mask=teacher.masks) if teacher.reading else None
        if self._told:
            inputs = self._as_told(inputs)
        index = asked.index if asked else Supervised.of(inputs["labels"], inputs.get(KNOWN)).index
        with torch.no_grad(), as_teacher(teacher.model) as model, self.features.watch_teacher(index):
            outputs = run_backbone(model, asked.inputs if asked else inputs, self._pad_id, masks=teacher.masks)
            states = outputs.last_hidden_state.flatten(0, 1).index_select(0, index)
            if teacher.reading is not None and asked is not None:
                states = teacher.reading.kept_values(states, asked, teacher.head(cached=False), workspace)
        return [states], asked.where if asked else None

    def _as_told(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The rows of a batch behind the teacher's system prompt."""
        told, *held_out = self._told
        rows = [told[row] if row < len(told) else held_out[0][row - len(told)] for row in row_numbers(inputs)]
        seen = Collator(self._pad_id)([as_teacher_sees(row) for row in rows])
        return {name: sent(seen[name], inputs["input_ids"].device) for name in ("input_ids", "labels")}
