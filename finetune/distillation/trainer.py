"""DistillationTrainer: a Hugging Face Trainer whose loss compares the student with a teacher, online or from a cache.

    trainer = DistillationTrainer(model=student, teacher_model=teacher, temperature=2.0, alpha=0.5, args=args, train_dataset=rows)
    trainer.train()

`alpha` weighs the hard labels: 1 is ordinary fine-tuning, 0 imitates the teacher alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from finetune import registry
from finetune.data.collator import Collator
from finetune.data.given import rows_of_file, tokens
from finetune.data.system_prompt import as_teacher_sees, is_prompted
from finetune.distillation.cache import TeacherCache
from finetune.distillation.itself import Itself, as_teacher
from finetune.distillation.loss import CachedGradient, Distillation
from finetune.distillation.objectives import Objective
from finetune.distillation.objectives.forward_kl import ForwardKL
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import DatasetError, RecipeError, VocabularyMismatch
from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.hardware.matmul import use_fast_linear
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.noise import hush
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.settings import SELF
from finetune.training.chunked_loss import ChunkLogits, CrossEntropy, Rule, chunked_loss
from finetune.training.head import Head, check_head, head_of, needs_mask, padding_id
from finetune.training.trainer import Supervised, SupervisedTrainer


class DistillationTrainer(SupervisedTrainer):
    """Trains a student on alpha * CE + (1 - alpha) * T^2 * D(teacher, student); takes what a SupervisedTrainer takes.

    The teacher is a model, the name of one (a Hub id, a folder, the output of a run), "self" (the model without its new adapter), or a
    `cache` that one has written (finetune.distillation.cache_builder) for `train_dataset`. `model` may be a name too. Rows are tokens
    (input_ids, labels), or texts and records as in a data file, for which `processing_class` is the tokenizer. `objective` is a name in
    the registry or an `Objective`.
    `last_parts` holds the mean `ce` and `kl` per token of the last step. Evaluation runs the teacher model and tells both parts as eval_ce
    and eval_kl; if there is only a cache it gives the cross-entropy. Raises RecipeError for values out of range or a cache that cannot be
    used, DatasetError for rows that are none, ModelError for names of no model, VocabularyMismatch if teacher and student do not share
    their tokens.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        teacher_model: Any = None,
        temperature: float | str = 2.0,
        alpha: float | str = 0.5,
        objective: str | Objective = "forward_kl",
        cache: TeacherCache | None = None,
        teacher_tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        hush()
        # The recipe knows their ranges, and that "2.0" is a number.
        given = Recipe.from_layers({"distillation": {"temperature": temperature, "alpha": alpha}}).distillation
        if isinstance(model, str | PathLike):
            model, tokenizer = by_name(model)
            model.float()  # small updates are lost in weights of 16 bits
            kwargs["processing_class"] = kwargs.get("processing_class") or tokenizer
        if teacher_model == SELF:
            teacher_model = Itself.of(model)
        if isinstance(teacher_model, str | PathLike):
            teacher_model, tokenizer = by_name(teacher_model)
            teacher_tokenizer = teacher_tokenizer or tokenizer
        check_kinds(model=model, teacher_model=teacher_model, args=args, model_init=kwargs.get("model_init"))
        for name in ("train_dataset", "eval_dataset"):
            if kwargs.get(name) is not None:
                kwargs[name] = as_tokens(kwargs[name], kwargs.get("processing_class"))
        if teacher_model is None and cache is None and given.alpha < 1:
            raise RecipeError("There is neither a teacher_model nor a cache.", hint="Pass teacher_model=.")
        if teacher_model is not None and teacher_model is model:
            raise RecipeError("Teacher and student are the same model.", hint="Load the student separately, or make one from the teacher.")
        others = None if isinstance(teacher_model, Itself) else teacher_model
        self.prompted = is_prompted(kwargs.get("train_dataset"))
        if kwargs.get("train_dataset") is not None and (cache is not None or self.prompted):
            kwargs["train_dataset"] = numbered(kwargs["train_dataset"], cache)
        collator = kwargs.pop("data_collator", None) or Collator(padding_id(kwargs.get("processing_class"), model, others))
        super().__init__(model, args, collator, **kwargs)
        self.temperature, self.alpha, self.cache = given.temperature, given.alpha, cache
        self.objective: Objective = registry.load("objectives", objective)() if isinstance(objective, str) else objective
        self.teacher = teacher_model
        self.cached_head: Head | None = None
        head = head_of(self.model)
        self.vocabulary = head.vocabulary
        if teacher_model is not None:
            self._prepare_teacher()
            theirs = head.vocabulary if isinstance(teacher_model, Itself) else head_of(teacher_model).vocabulary
            self.vocabulary = shared_vocabulary(head.vocabulary, theirs, kwargs.get("processing_class"), teacher_tokenizer)
        if cache is not None:
            cache.check(head, forward_kl=isinstance(self.objective, ForwardKL), temperature=self.temperature)
            if cache.key.vocabulary > head.vocabulary:
                raise VocabularyMismatch(f"The cached teacher has {cache.key.vocabulary} tokens and the student {head.vocabulary}.")
            self.vocabulary = cache.key.vocabulary
            if cache.head is not None:
                self.cached_head = cache.head.each(lambda tensor: tensor.to(self.args.device)).first(self.vocabulary)

    def head(self) -> Head:
        return head_of(self.model).first(self.vocabulary)

    def rule(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor) -> Rule:
        cache = self.cache if "row" in inputs else None
        if hasattr(self.objective, "at"):
            self.objective.at(self.state.global_step / max(1, self.state.max_steps) if self.model.training else 1.0)
        if self.alpha == 1 or (cache is None and not self._can_ask(inputs)):
            return CrossEntropy(supervised.labels)
        if cache is None:
            return self._distil(supervised.labels, *self._ask(inputs, supervised))
        counts = (inputs["labels"][:, 1:] != -100).sum(1).tolist()
        values, negentropy = cache.read(inputs["row"].tolist(), counts)
        values = values.to(hidden.device, non_blocking=True)
        if self.cached_head is not None:
            return self._distil(supervised.labels, values, self.cached_head)
        assert negentropy is not None, "a cache has a head or it has gradients"
        return CachedGradient(supervised.labels, hidden, self.head(), values, negentropy.to(hidden.device), self.alpha, self.temperature)

    @torch.no_grad()
    def evaluated_parts(self, inputs: dict[str, Any], supervised: Supervised, hidden: Tensor, rule: Rule) -> dict[str, Tensor]:
        """Cross-entropy and divergence of a batch, also the one that alpha leaves out of the loss; without a teacher only the first."""
        parts = dict(rule.sums)
        if "ce" not in parts:
            parts["ce"] = chunked_loss(hidden, self.head(), CrossEntropy(supervised.labels), workspace=self.workspace)
        if "kl" not in parts and self._can_ask(inputs):
            teacher = ChunkLogits("teacher", *self._ask(inputs, supervised), self.temperature)
            beside = Distillation(supervised.labels, teacher, self.objective, 0.0, self.temperature)
            chunked_loss(hidden, self.head(), beside, workspace=self.workspace)
            parts["kl"] = beside.sums["kl"]
        return parts

    def _distil(self, labels: Tensor, hidden: Tensor, head: Head) -> Distillation:
        teacher = ChunkLogits("teacher", hidden, head, self.temperature)
        return Distillation(labels, teacher, self.objective, self.alpha, self.temperature)

    @torch.no_grad()
    def _ask(self, inputs: dict[str, Any], supervised: Supervised) -> tuple[Tensor, Head]:
        """The teacher's states [n, d] at the supervised positions, and its head."""
        if self.prompted:
            rows: Any = self.train_dataset
            told = Collator(self.pad_id)([as_teacher_sees(rows[row]) for row in inputs["row"].tolist()])
            inputs = {name: told[name].to(inputs["input_ids"].device) for name in ("input_ids", "labels")}
            supervised = Supervised.of(inputs["labels"])
        with as_teacher(self.teacher) as teacher:
            outputs = self.run_backbone(teacher, inputs, masks=self.teacher_masks)
            head = head_of(teacher).detach().first(self.vocabulary)
        return outputs.last_hidden_state.flatten(0, 1).index_select(0, supervised.index), head

    def _can_ask(self, inputs: dict[str, Any]) -> bool:
        """Whether the teacher can be asked of a batch: what one with a system prompt sees is known of the training rows only."""
        return self.teacher is not None and ("row" in inputs or not self.prompted)

    def _prepare_teacher(self) -> None:
        if isinstance(self.teacher, Itself):
            self.teacher_masks = self.masks
            return
        self.teacher.requires_grad_(False).eval()
        placed = getattr(self.teacher, "hf_device_map", None) or getattr(self.teacher, "quantization_method", None)
        if not placed:
            self.teacher.to(self.args.device)
        use_fast_linear(self.teacher)
        check_head(self.teacher)
        self.teacher_masks = needs_mask(self.teacher)


def check_kinds(*, model: Any, teacher_model: Any, args: Any, model_init: Any) -> None:
    """Raises RecipeError for what cannot be a model or the arguments of a Trainer."""
    if model is None and model_init is None:
        raise RecipeError("There is no model to train.", hint="Pass model=, a model or the name of one.")
    for name, given in (("model", model), ("teacher_model", teacher_model)):
        if given is not None and not isinstance(given, torch.nn.Module | Itself):
            raise RecipeError(f"{name} is of type {type(given).__name__}.", hint="Pass a model, or the name of one.")
    if args is not None and not isinstance(args, TrainingArguments):
        raise RecipeError(f"args is of type {type(args).__name__}.", hint='Pass transformers.TrainingArguments("folder", ...).')


def by_name(name: str | PathLike[str]) -> tuple[Any, Any]:
    """A model and its tokenizer, from the Hub or from this disk; raises ModelError."""
    runtime = RuntimeOptions()
    located = locate(str(name), runtime, Recorder())
    return load_model(located, inspect(runtime)), load_tokenizer(located)


def as_tokens(rows: Any, tokenizer: Any) -> Any:
    """Rows of tokens as they are, rows of text or those of a file as tokens; DatasetError for what is neither, or has no tokenizer."""
    if isinstance(rows, str | PathLike):
        rows = rows_of_file(rows)
    if not hasattr(rows, "__getitem__") or (hasattr(rows, "__len__") and not len(rows) and not isinstance(rows, list)):
        return rows
    if isinstance(rows, Mapping) and any(hasattr(part, "column_names") for part in rows.values()):
        return {name: as_tokens(part, tokenizer) for name, part in rows.items()}  # several to evaluate on
    names = getattr(rows, "column_names", None)
    if isinstance(names, list):
        first: Any = dict.fromkeys(names)
    else:
        first = rows if isinstance(rows, Mapping) or rows == [] else rows[0]
    if isinstance(first, Mapping) and "input_ids" in first:
        return rows
    if not isinstance(first, Mapping | str | list | tuple):
        return rows  # an example of a kind that only its own collator knows
    if tokenizer is None:
        raise DatasetError(
            "The rows are text, and there is no tokenizer for them.",
            hint="Pass processing_class=tokenizer, or rows of input_ids and labels.",
        )
    return tokens(rows, tokenizer)


def numbered(dataset: Any, cache: TeacherCache | None = None) -> Any:
    """The dataset with a `row` column, so that each row finds what the teacher says or sees of it in any order."""
    if cache is not None and len(dataset) != cache.rows:
        raise RecipeError(
            f"The teacher cache has {cache.rows} rows, but there are {len(dataset)} training rows.", hint="Build the cache again."
        )
    if hasattr(dataset, "add_column"):
        return dataset.remove_columns([name for name in ("row",) if name in dataset.column_names]).add_column("row", range(len(dataset)))
    return Numbered(dataset)


class Numbered(torch.utils.data.Dataset[Any]):
    """Any map-style dataset with a `row` entry in each example."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self.rows[number], "row": number}
