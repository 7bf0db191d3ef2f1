"""DistillationTrainer: a Hugging Face Trainer whose loss compares the student with a teacher, online or from a cache.

    trainer = DistillationTrainer(model=student, teacher_model=teacher, temperature=2.0, alpha=0.5, args=args, train_dataset=rows)
    trainer.train()

`alpha` weighs the hard labels: 1 is ordinary fine-tuning, 0 imitates the teacher alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.system_prompt import as_teacher_sees, is_prompted
from finetune.distillation.across_tokenizers.projected import AVERAGED, OWN_ROWS, teacher_logits
from finetune.distillation.across_tokenizers.spans import SpanReading, span_loss
from finetune.distillation.across_tokenizers.ways import reading_of
from finetune.distillation.caches.cache import TeacherCache
from finetune.distillation.caches.read_ahead import ReadAhead
from finetune.distillation.caches.row_numbers import first_rows, numbered
from finetune.distillation.grids.quantised import count_steps, is_quantised
from finetune.distillation.loss import CachedGradient, Distillation
from finetune.distillation.objectives import APPROXIMATE, Objective
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.distillation.on_policy.practice import OWN
from finetune.distillation.on_policy.trainer import OnPolicyTrainer, check_teachers
from finetune.distillation.teachers.correction import corrected, margins
from finetune.distillation.teachers.itself import SelfTeacher, as_teacher
from finetune.distillation.teachers.mixture import Routed, added, joined, mixed
from finetune.distillation.teachers.teachers import Teacher, runs_of, shares
from finetune.distillation.terms.features import features_of
from finetune.distillation.terms.projections import TOKENS, attached
from finetune.distillation.top_k_loss import TopKLoss
from finetune.distillation.trainer_inputs import (
    as_tokens,
    by_name,
    check_apart,
    check_correct,
    check_keywords,
    check_kinds,
    checked,
    known_teachers,
    objective_of,
    warn_of_smaller,
)
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import RecipeError, VocabularyMismatch
from finetune.events import Reporter
from finetune.hardware.kernels import use_fast_kernels
from finetune.recipe.distillation_settings import FeaturesSpec, OnPolicySpec
from finetune.recipe.teacher_settings import SELF
from finetune.system.library_warnings import hush
from finetune.training.batches import KNOWN, lengths_of, right_padding_mask, row_numbers, sent, some_rows, supervised_counts
from finetune.training.chunked_loss import ChunkLogits, CrossEntropy, Rule, chunked_loss, precision
from finetune.training.head import Head, causal_lm, check_head, context_length, fixed_positions, head_of, needs_mask, padding_id
from finetune.training.trainer import Supervised


class DistillationTrainer(OnPolicyTrainer):
    """Trains a student on alpha * CE + (1 - alpha) * T^2 * D(teacher, student); takes what a SupervisedTrainer takes.

    The teacher is a model, the name of one (a Hub id, a folder, the output of a run), "self" (the model without its new adapter), or a
    `cache` that one has written (finetune.distillation.caches.builder) for `train_dataset`. `model` may be a name too. Rows are tokens
    (input_ids, labels), or texts and records as in a data file, for which `processing_class` is the tokenizer. `objective` is a name in
    the registry or an `Objective`.

    With `correct`, the label has more weight where the teacher's first choice is wrong (finetune/distillation/teachers/correction.py).

    Several teachers (or caches) are a list, mixed by `teacher_weights`, which are scaled to sum to one: D is sum_k w_k D(q_k, p) for
    forward and reverse KL, D(sum_k w_k q_k, p) for the others. With `teacher_rows`, the number of its teacher for each training row, each
    teaches its own rows instead, and a cache is one of these alone. With `across_tokenizers` ("projected") a teacher may have another
    tokenizer: it is compared where both have read the same text, and both tokenizers are needed. "spans" compares one such teacher by
    likelihoods of pieces of the text, approximately: the parts of the loss then have `approximate_kl` in place of `kl`. So they have with
    a cache of the teacher's likeliest tokens (kind "top_k").

    `features` ({"last": 0.1, "layers": "auto", "relations": ["v"]}: FeaturesSpec in distillation_settings.py) also compare hidden states
    and attention with those of the one teacher; `made`, the facts of a student made from it, says which layer is which.

    With `on_policy` ({"share": 0.5, "tokens": 96, "refresh": 64}) the student practises on its own answers from the second epoch on: they
    take the place of a share of the rows, have no labels, and need the teacher itself, also beside a cache. `reporter` gets their events.

    `last_parts` holds the mean `ce` and `kl` per token of the last step, and `own_kl` of its own answers. Evaluation runs the teachers and
    tells both parts as eval_ce and eval_kl; if there is only a cache, or teachers have rows, it gives the cross-entropy. Of rows that are
    `held_out` to be measured while it trains, caches and `teacher_rows` know after those of `train_dataset`. Raises RecipeError
    for values out of range or a cache that cannot be used, DatasetError for rows that are none, ModelError for names of no model,
    VocabularyMismatch if teacher and student do not share their tokens.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        teacher_model: Any = None,
        teacher_weights: Sequence[float] | None = None,
        teacher_rows: Sequence[int] | None = None,
        temperature: float | str = 2.0,
        alpha: float | str = 0.5,
        objective: str | Objective = "forward_kl",
        correct: float | str = 0.0,
        cache: TeacherCache | Sequence[TeacherCache] | None = None,
        teacher_tokenizer: Any = None,
        across_tokenizers: str = "none",
        on_policy: OnPolicySpec | Mapping[str, Any] | None = None,
        reporter: Reporter | None = None,
        features: Mapping[str, Any] | FeaturesSpec | None = None,
        made: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        hush()
        check_keywords(type(self), kwargs)
        settings: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "correct": correct, "across_tokenizers": across_tokenizers}
        given = checked(settings | {"features": features or {}} | ({"on_policy": on_policy} if on_policy else {}))
        self.objective: Objective = objective_of(objective)
        if isinstance(model, str | PathLike):
            model, tokenizer = by_name(model)
            model.float()  # small updates are lost in weights of 16 bits
            kwargs["processing_class"] = kwargs.get("processing_class") or tokenizer
        teachers = known_teachers(SelfTeacher.of(model) if teacher_model == SELF else teacher_model, cache, teacher_tokenizer)
        models = [teacher.model for teacher in teachers]
        check_kinds(model=model, teacher_models=models, args=args, model_init=kwargs.get("model_init"))
        if reporter is None:
            warn_of_smaller(models, model)
        collates = kwargs.get("data_collator") is not None
        self._as_tokens = partial(as_tokens, tokenizer=kwargs.get("processing_class"), collates=collates)
        for name in ("train_dataset", "eval_dataset"):
            if kwargs.get(name) is not None:
                kwargs[name] = self._as_tokens(kwargs[name], several=name == "eval_dataset")
        if not teachers and given.alpha < 1:
            raise RecipeError("There is neither a teacher_model nor a cache.", hint="Pass teacher_model=.")
        check_apart(model, models)
        if teacher_rows is not None and teacher_weights is not None:
            raise RecipeError("teacher_rows and teacher_weights exclude each other.", hint="Mix teachers, or give each its own rows.")
        self.weights = shares(teacher_weights, len(teachers))
        caches = [teacher.cache for teacher in teachers if teacher.cache is not None]
        self.prompted = is_prompted(kwargs.get("train_dataset"))
        if kwargs.get("train_dataset") is not None and (caches or teacher_rows is not None or self.prompted):
            held_out = [] if kwargs.get("held_out") is None else [kwargs["held_out"]]
            found = numbered([kwargs["train_dataset"], *held_out], caches, teacher_rows, len(teachers))
            kwargs |= dict(zip(("train_dataset", "held_out"), found, strict=False))
        others = [teacher for teacher in models if not isinstance(teacher, SelfTeacher)]
        collator = kwargs.pop("data_collator", None) or Collator(padding_id(kwargs.get("processing_class"), model, *others))
        super().__init__(model, args, collator, **kwargs)
        self.temperature, self.alpha, self.routed = given.temperature, given.alpha, teacher_rows is not None
        self.teachers, self.correct = teachers, given.correct
        check_correct(self.correct, teachers)
        self.tells_top = any(cache.signal.of_server for cache in caches)
        if self.tells_top and len(teachers) > 1:
            raise RecipeError("Likeliest tokens can be compared with one teacher only, and there are several.", hint="Pass one cache.")
        head = head_of(self.model)
        way = given.across_tokenizers
        self.vocabulary = min((self._prepare(teacher, head, way) for teacher in teachers), default=head.vocabulary)
        if len(teachers) > 1 and not self.routed and any(teacher.reading for teacher in teachers):
            raise RecipeError(AVERAGED, hint=OWN_ROWS)
        if len(teachers) > 1 and way == "spans":
            raise RecipeError("Spans compare one teacher, and there are several.", hint='Take one, or across_tokenizers="projected".')
        self.own_objective = self.objective
        if (practice := given.practice) and self.train_dataset is not None:
            check_teachers(teachers, prompted=self.prompted, collates=collates)
            if practice.objective:
                self.own_objective = objective_of(practice.objective)
            self.practise(practice, reporter)
        self.features = features_of(given.features, self.model, self.teachers, made, prompted=self.prompted)
        if len(self.features.maps):
            self._begin_maps()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        named = eval_dataset is None or isinstance(eval_dataset, str)  # one that was given at the beginning
        return super().get_eval_dataloader(eval_dataset if named else self._as_tokens(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        return super().get_test_dataloader(self._as_tokens(test_dataset))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with attached(self.model, self.features.maps):
            return super().train(*args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if is_quantised(self.model):
            count_steps(optimizer)
        return optimizer

    @torch.no_grad()
    def _begin_maps(self) -> None:
        """Begin what leads from the student's states to the teacher's with the first training rows."""
        inputs = self._prepare_inputs(self.data_collator(first_rows(self.train_dataset, TOKENS)))
        supervised, was_training = Supervised.of(inputs["labels"]), self.model.training
        self.model.eval()
        states = self.run_student(inputs).last_hidden_state.flatten(0, 1).index_select(0, supervised.index)
        counts = supervised_counts(inputs)
        said, *_ = self._teacher_outputs(0, inputs, None, counts, cached=self._cached(inputs))
        self.features.begin(states, supervised.index, said.to(states.device))
        self.model.train(was_training)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        known = [batch for batch in batches if KNOWN in batch and "row" in batch]
        for number, teacher in enumerate(self.teachers):
            if teacher.ahead is not None:
                inside = [asked for batch in known for asked in self.features.ahead(*self._numbers(batch))]
                runs = [(batch, rows or slice(None)) for batch in known for asked, rows in self._runs(batch) if asked == number]
                teacher.ahead.begin([*((row_numbers(batch)[rows], supervised_counts(batch)[rows], ()) for batch, rows in runs), *inside])
        return batches, items

    def _runs(self, batch: Mapping[str, Any]) -> Sequence[tuple[int, slice | None]]:
        """Who is asked about which rows of a batch: a routed teacher about its own, run by run, the others all about all of them."""
        everybody = [(number, None) for number in range(len(self.teachers))]
        return runs_of(row_numbers(batch, "teacher_number")) if self.routed else everybody

    def _numbers(self, batch: Mapping[str, Any]) -> tuple[list[int], list[int], list[int]]:
        """Of each row of a batch its number, its supervised tokens and its length."""
        return row_numbers(batch), supervised_counts(batch), lengths_of(batch, self.pad_id)

    def run_student(self, inputs: dict[str, Any]) -> Any:
        if not self.features.weights:
            return super().run_student(inputs)
        with self.features.watch_student(right_padding_mask(inputs, self.pad_id)):
            return super().run_student(inputs)

    def head(self) -> Head:
        """The student's last layer, cut to the tokens that it shares with its teacher."""
        return head_of(self.model).first(self.vocabulary)

    def rule(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor) -> Rule:
        own = OWN in inputs
        objective = self.own_objective if own else self.objective
        if hasattr(objective, "at"):
            objective.at(self.state.global_step / max(1, self.state.max_steps) if self.model.training else 1.0)
        if own:  # without labels
            return self._distil(inputs, supervised, hidden, 0.0, objective=objective)
        if self.alpha < 1 and self._has_teacher(inputs):
            return self._distil(inputs, supervised, hidden, self.alpha, correct=self.correct)
        return CrossEntropy(supervised.labels)

    @torch.no_grad()
    def evaluated_parts(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor, rule: Rule) -> dict[str, Tensor]:
        """Cross-entropy and divergence of a batch, also the one that alpha leaves out of the loss; without a teacher only the first."""
        parts = dict(rule.sums)
        if "ce" not in parts:
            parts["ce"] = chunked_loss(hidden, self.head(), CrossEntropy(supervised.labels), workspace=self.workspace)
        if not {"kl", APPROXIMATE} & parts.keys() and self._has_teacher(inputs):
            beside = self._distil(inputs, supervised, hidden, 0.0)
            chunked_loss(hidden, self.head(), beside, workspace=self.workspace)
            parts |= {name: beside.sums[name] for name in ("kl", APPROXIMATE) if name in beside.sums}
        return parts

    def _has_teacher(self, inputs: dict[str, Any]) -> bool:
        """Whether there is a teacher for this batch: those of an evaluation have no row in a cache, and no teacher of their own."""
        if (self.routed and "teacher_number" not in inputs) or (self.prompted and "row" not in inputs):
            return False  # whose rows they are, or what the teacher sees instead, is known of the training rows only
        return bool(self.teachers) and (self._cached(inputs) or all(teacher.model is not None for teacher in self.teachers))

    def _cached(self, inputs: dict[str, Any]) -> bool:
        return "row" in inputs and all(teacher.cache is not None for teacher in self.teachers)

    def _distil(
        self,
        inputs: dict[str, Any],
        supervised: Supervised,
        hidden: Tensor,
        weight: float,
        *,
        correct: float = 0.0,
        objective: Objective | None = None,
    ) -> Rule:
        objective = objective or self.objective
        counts = supervised_counts(inputs)
        cached = self._cached(inputs)
        if isinstance(self.teachers[0].reading, SpanReading):
            likely, _, spans = self._teacher_outputs(0, inputs, None, counts, cached=cached)
            assert spans is not None
            how: dict[str, Any] = {"alpha": weight, "temperature": self.temperature, "workspace": self.workspace}
            return span_loss(supervised.labels, hidden, self.head(), likely.to(hidden.device), spans, objective, **how)
        if cached and self.tells_top:
            values, ids, _ = self._teacher_outputs(0, inputs, None, counts, cached=True)
            assert ids is not None
            return TopKLoss(supervised.labels, values.to(hidden.device), ids.to(hidden.device), objective, weight, self.temperature)
        runs = self._runs(inputs)
        said, aligned = [], []
        for number, rows in runs:
            values, negentropy, where = self._teacher_outputs(number, inputs, rows, counts, cached=cached)
            said.append((values, negentropy))
            aligned.append(torch.ones(len(values), dtype=torch.bool) if where is None else where)
        alpha: float | Tensor = weight
        if correct:
            alpha = corrected(weight, sent(self._margins(inputs, supervised, said[0][0], counts, cached=cached), hidden.device), correct)
        if not self.routed:
            aligned = aligned[:1]
        if not all(bool(part.all()) for part in aligned):  # the others learn from their labels alone
            precise = precision(hidden.dtype)
            each = alpha.to(precise) if isinstance(alpha, Tensor) else hidden.new_full((), alpha, dtype=precise)
            alpha = torch.where(sent(torch.cat(aligned), hidden.device), each, 1.0)
        if cached and not any(teacher.kept_head for teacher in self.teachers):
            kept = [(values.to(hidden.device), negentropy.to(hidden.device)) for values, negentropy in said if negentropy is not None]
            values, negentropy = joined(kept) if self.routed else added(kept, self.weights)
            of_cache = CachedGradient(supervised.labels, hidden, self.head(), values, negentropy, alpha, self.temperature)
            return self._beside(of_cache, inputs, supervised, hidden, values)
        logits = [
            self._logits(number, values.to(hidden.device), cached=cached) for (number, _), (values, _) in zip(runs, said, strict=True)
        ]
        if self.routed:
            starts = [0, *accumulate(len(values) for values, _ in said)][:-1]
            return Distillation(supervised.labels, Routed(starts, logits), objective, alpha, self.temperature)
        rule = mixed(supervised.labels, logits, self.weights, objective, alpha, self.temperature)
        return self._beside(rule, inputs, supervised, hidden, said[0][0])

    def _beside(self, rule: Rule, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor, said: Tensor) -> Rule:
        """The rule with what the terms add to it, if there are any; `said` are the teacher's states, or what a cache has instead."""
        if self.features.weights:
            rule.beside, sums = self.features.compared(inputs["labels"], hidden, supervised.index, said)
            rule.sums |= sums
        return rule

    def _margins(self, inputs: dict[str, Any], supervised: Supervised, states: Tensor, counts: list[int], *, cached: bool) -> Tensor:
        """How far the teacher's first choice is ahead of each label [n]; `states` are the teacher's, if it is asked now."""
        teacher = self.teachers[0]
        if cached and teacher.cache is not None:
            return teacher.cache.read(row_numbers(inputs), counts, ["margins"])[0]
        return margins(states, teacher.head(cached=False).first(self.vocabulary), supervised.labels, self.workspace)

    def _logits(self, number: int, states: Tensor, *, cached: bool) -> ChunkLogits:
        head = self.teachers[number].head(cached=cached).first(self.vocabulary)
        return teacher_logits(f"teacher {number}" if number else "teacher", states, head, self.temperature)

    def _teacher_outputs(
        self, number: int, inputs: dict[str, Any], rows: slice | None, counts: list[int], *, cached: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What a teacher says about the supervised tokens of some rows of a batch, or of all: states [n, d], or a cache's values.

        And of one with another tokenizer, about which of them [n], in main memory.
        """
        teacher = self.teachers[number]
        if rows is not None:
            counts, inputs = counts[rows], some_rows(inputs, rows)
        if cached and teacher.cache is not None:
            aligned = teacher.reading.where(row_numbers(inputs), inputs) if teacher.reading else None
            source = teacher.ahead or teacher.cache
            found = source.read(row_numbers(inputs), counts)
            if self.features.kept:
                self.features.read(source, *self._numbers(inputs))
            values, *more = (sent(part, inputs["labels"].device) for part in found)
            return values, more[0] if more else None, aligned
        asked = teacher.reading.batch(inputs, mask=teacher.masks) if teacher.reading else None
        if self.prompted:
            told: Any = self.train_dataset
            rows_told = [told[row] if row < len(told) else self.held_out[row - len(told)] for row in row_numbers(inputs)]
            seen = Collator(self.pad_id)([as_teacher_sees(row) for row in rows_told])
            inputs = {name: sent(seen[name], inputs["input_ids"].device) for name in ("input_ids", "labels")}
        index = asked.index if asked else Supervised.of(inputs["labels"], inputs.get(KNOWN)).index
        with torch.no_grad(), as_teacher(teacher.model) as model, self.features.watch_teacher(index):
            outputs = self.run_backbone(model, asked.inputs if asked else inputs, masks=teacher.masks)
            states = outputs.last_hidden_state.flatten(0, 1).index_select(0, index)
            if teacher.reading is not None and asked is not None:
                states = teacher.reading.kept_values(states, asked, teacher.head(cached=False), self.workspace)
            return states, None, asked.where if asked else None

    def _prepare(self, teacher: Teacher, head: Head, way: str) -> int:
        """Place a teacher and check it against the student's head; how many leading ids both share."""
        vocabulary = head.vocabulary
        if way != "none":
            limit = None if teacher.model is None else context_length(causal_lm(teacher.model))
            teacher.reading = reading_of(way, self.processing_class, teacher.tokenizer, vocabulary, limit)
        if isinstance(teacher.model, SelfTeacher):
            teacher.masks = self.masks
        elif teacher.model is not None:
            model = teacher.model
            model.requires_grad_(False).eval()
            placed = getattr(model, "hf_device_map", None) or getattr(model, "quantization_method", None)
            if not placed:
                model.to(self.args.device)
            use_fast_kernels(model)
            check_head(model)
            teacher.masks = needs_mask(model)
            if teacher.reading is None:
                vocabulary = shared_vocabulary(head.vocabulary, head_of(model).vocabulary, self.processing_class, teacher.tokenizer)
                collator: Any = self.data_collator
                collator.end_at(fixed_positions(model), "the teacher")
        if (cache := teacher.cache) is not None:
            of_spans = isinstance(teacher.reading, SpanReading)
            cache.check(head, forward_kl=isinstance(self.objective, ForwardKL), temperature=self.temperature, of_spans=of_spans)
            if cache.key.vocabulary > head.vocabulary:
                raise VocabularyMismatch(f"The cached teacher has {cache.key.vocabulary} tokens and the student {head.vocabulary}.")
            vocabulary = cache.key.vocabulary
            teacher.ahead = ReadAhead(cache) if self.args.device.type == "cuda" else None
            if cache.head is not None:
                kept = cache.head.each(lambda tensor: tensor.to(self.args.device))
                teacher.kept_head = kept if teacher.reading else kept.first(vocabulary)
        return vocabulary
