"""DistillationTrainer: a Hugging Face Trainer whose loss compares the student with a teacher, online or from a cache.

    trainer = DistillationTrainer(model=student, teacher_model=teacher, temperature=2.0, alpha=0.5, args=args, train_dataset=rows)
    trainer.train()

`alpha` weighs the hard labels: 1 is ordinary fine-tuning, 0 imitates the teacher alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.system_prompt import is_prompted
from finetune.distillation.across_tokenizers.spans import span_loss
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.caches.row_numbers import first_rows, row_left_out
from finetune.distillation.grids.quantised import count_steps, is_quantised
from finetune.distillation.loss import CachedGradient, Distillation
from finetune.distillation.objectives import APPROXIMATE, Objective
from finetune.distillation.on_policy.practice import OWN
from finetune.distillation.on_policy.trainer import OnPolicyTrainer, check_teachers
from finetune.distillation.teachers.asking import GradientCentres, SpanLikelihoods, TeacherOutput, Teachers, TopTokens
from finetune.distillation.teachers.correction import corrected
from finetune.distillation.teachers.itself import SelfTeacher
from finetune.distillation.teachers.mixture import Routed, mixed
from finetune.distillation.teachers.model_or_cache import shares
from finetune.distillation.teachers.placing import place
from finetune.distillation.terms.features import features_of
from finetune.distillation.terms.projections import TOKENS, attached
from finetune.distillation.top_k_loss import TopKLoss
from finetune.distillation.trainer_inputs import (
    as_tokens,
    by_name,
    check_keywords,
    check_kinds,
    check_model_init,
    check_together,
    checked,
    known_teachers,
    numbered_rows,
    objective_of,
    warn_of_16_bits,
    warn_of_smaller,
)
from finetune.events import Reporter
from finetune.recipe.distillation_settings import FeaturesSpec, OnPolicySpec
from finetune.recipe.teacher_settings import SELF
from finetune.system.library_warnings import hush
from finetune.training.batches import Supervised, right_padding_mask, sent
from finetune.training.head import Head, head_of, padding_id
from finetune.training.loss.chunked import CrossEntropy, Rule, chunked_loss, precision


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
        self.divergence: Objective = objective_of(objective)  # `objective` is the Trainer's, of its search for settings
        if isinstance(model, str | PathLike):
            model, tokenizer = by_name(model)
            model.float()  # small updates are lost in weights of 16 bits
            kwargs["processing_class"] = kwargs.get("processing_class") or tokenizer
        check_model_init(kwargs.get("model_init"), teacher_model, features)
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
        check_together(model, teachers, alpha=given.alpha, weights=teacher_weights, rows=teacher_rows)
        weights = shares(teacher_weights, len(teachers))
        routed, prompted = teacher_rows is not None, is_prompted(kwargs.get("train_dataset"))
        kwargs |= numbered_rows(kwargs, teachers, teacher_rows, prompted=prompted)
        others = [teacher for teacher in models if not isinstance(teacher, SelfTeacher)]
        collator = kwargs.pop("data_collator", None) or Collator(padding_id(kwargs.get("processing_class"), model, *others))
        super().__init__(model, args, collator, **kwargs)
        if reporter is None:
            warn_of_16_bits(self.model)
        self.temperature, self.alpha, self.correct = given.temperature, given.alpha, given.correct
        vocabulary = place(teachers, self, given, self.divergence, routed=routed)
        self.own_objective = self.divergence
        if (practice := given.practice) and self.train_dataset is not None:
            check_teachers(teachers, prompted=prompted, collates=collates)
            if practice.objective:
                self.own_objective = objective_of(practice.objective)
            self.practise(practice, reporter)
        self.features = features_of(given.features, self.model, teachers, made, prompted=prompted)
        told = [rows for rows in (self.train_dataset, self.held_out) if rows is not None] if prompted else []
        self.teachers = Teachers(teachers, weights, vocabulary, self.features, pad_id=self.pad_id, routed=routed, told=told)
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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's, with the parts of the last step beside the loss: trackers and callbacks get ce and kl."""
        super().log({**logs, **self.last_parts} if "loss" in logs else logs, start_time)

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
        output = self.teachers.ask(inputs, states.device, self.workspace)
        self.features.begin(states, supervised.index, output.values)
        self.model.train(was_training)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.teachers.read_ahead(batches)
        return batches, items

    def run_student(self, inputs: dict[str, Any]) -> Any:
        if not self.features.weights:
            return super().run_student(inputs)
        with self.features.watch_student(right_padding_mask(inputs, self.pad_id)):
            return super().run_student(inputs)

    def head(self) -> Head:
        """The student's last layer, cut to the tokens that it shares with its teacher."""
        return head_of(self.model).first(self.teachers.vocabulary)

    def rule(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor) -> Rule:
        own = OWN in inputs
        objective = self.own_objective if own else self.divergence
        if hasattr(objective, "at"):
            objective.at(self.state.global_step / max(1, self.state.max_steps) if self.model.training else 1.0)
        if own:  # without labels
            return self._distil(inputs, supervised, hidden, 0.0, objective=objective)
        if self.alpha < 1 and self.teachers.can_be_asked(inputs):
            return self._distil(inputs, supervised, hidden, self.alpha, correct=self.correct)
        if self.alpha < 1 and self.model.training:
            raise row_left_out()
        return CrossEntropy(supervised.labels)

    @torch.no_grad()
    def evaluated_parts(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor, rule: Rule) -> dict[str, Tensor]:
        """Cross-entropy and divergence of a batch, also the one that alpha leaves out of the loss; without a teacher only the first."""
        parts = dict(rule.sums)
        if "ce" not in parts:
            parts["ce"] = chunked_loss(hidden, self.head(), CrossEntropy(supervised.labels), workspace=self.workspace)
        if not {"kl", APPROXIMATE} & parts.keys() and self.teachers.can_be_asked(inputs):
            beside = self._distil(inputs, supervised, hidden, 0.0)
            chunked_loss(hidden, self.head(), beside, workspace=self.workspace)
            parts |= {name: beside.sums[name] for name in ("kl", APPROXIMATE) if name in beside.sums}
        return parts

    def _distil(
        self,
        inputs: dict[str, Any],
        supervised: Supervised,
        hidden: Tensor,
        alpha: float,
        *,
        correct: float = 0.0,
        objective: Objective | None = None,
    ) -> Rule:
        """The loss of a batch, alpha * CE + (1 - alpha) * T^2 * D(teacher, student), by what its teachers say."""
        labels, temperature, objective = supervised.labels, self.temperature, objective or self.divergence
        output = self.teachers.ask(inputs, hidden.device, self.workspace)
        if isinstance(output, SpanLikelihoods):
            how: dict[str, Any] = {"alpha": alpha, "temperature": temperature, "workspace": self.workspace}
            return span_loss(labels, hidden, self.head(), output.values, output.spans, objective, **how)
        if isinstance(output, TopTokens):
            return TopKLoss(labels, output.values, output.ids, objective, alpha, temperature)
        weight = self._label_weight(alpha, correct, output, inputs, supervised, hidden)
        rule: Rule
        if isinstance(output, GradientCentres):
            rule = CachedGradient(labels, hidden, self.head(), output.values, output.negentropy, weight, temperature)
        elif self.teachers.routed:
            rule = Distillation(labels, Routed(output.starts, output.logits(temperature)), objective, weight, temperature)
        else:
            rule = mixed(labels, output.logits(temperature), self.teachers.weights, objective, weight, temperature)
        if self.features.weights:
            rule.beside, sums = self.features.compared(inputs["labels"], hidden, supervised.index, output.values)
            rule.sums |= sums
        return rule

    def _label_weight(
        self, alpha: float, correct: float, output: TeacherOutput, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor
    ) -> float | Tensor:
        """alpha, or that of each token [n]: more where the teacher is to be corrected, 1 where nothing is compared with it."""
        if correct:  # only of a teacher with the student's tokenizer
            return corrected(alpha, self.teachers.margins(inputs, supervised.labels, output, self.workspace), correct)
        if output.aligned is None:
            return alpha
        each = hidden.new_full((), alpha, dtype=precision(hidden.dtype))
        return torch.where(sent(output.aligned, hidden.device), each, 1.0)
