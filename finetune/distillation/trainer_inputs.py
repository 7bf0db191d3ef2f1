"""The arguments of a DistillationTrainer in every form that it takes (models by name, rows as text, several teachers), and their checks.

model, tokenizer = by_name("org/name")
rows = as_tokens([{"prompt": "...", "completion": "..."}], tokenizer)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from inspect import signature
from os import PathLike
from typing import Any, cast

import torch
from transformers import TrainingArguments

from finetune import registry
from finetune.data.in_memory import records, rows_of_file, tokens
from finetune.data.tokens.labels import LEARNED
from finetune.distillation.caches.row_numbers import numbered
from finetune.distillation.objectives import Objective
from finetune.distillation.teachers.itself import SelfTeacher
from finetune.distillation.teachers.model_or_cache import Teacher, listed
from finetune.distillation.teachers.sizes import swapped
from finetune.errors import DatasetError, RecipeError, VocabularyMismatch
from finetune.events import Recorder
from finetune.hardware.machine import inspect
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.recipe import Recipe
from finetune.recipe.distillation_settings import DistillationSpec
from finetune.recipe.teacher_settings import SELF
from finetune.registry import did_you_mean
from finetune.runtime import RuntimeOptions
from finetune.training.head import causal_lm, check_causal
from finetune.training.loop import parameters_of, trainable

COUNTED = (None, "bitsandbytes")  # ways to store a model whose weights can be counted; of others several are one number


def checked(settings: Mapping[str, Any]) -> DistillationSpec:
    """What a recipe makes of the same settings: it knows their ranges, and that "2.0" is a number; RecipeError by the arguments' names."""
    try:
        return Recipe.from_layers({"approach": "distillation", "training": {"epochs": 2}, "distillation": settings}).distillation
    except RecipeError as error:
        message, hint = (re.sub(r"(--set )?\bdistillation\.", "", text or "") for text in (error.message, error.hint))
        raise RecipeError(message.replace("a recipe key", "a setting"), hint=hint or None) from None


def check_keywords(trainer: type, given: Mapping[str, Any]) -> None:
    """Raises RecipeError for a keyword that the trainer does not know; the Trainer would only name it."""
    known = {each: list(signature(each).parameters) for each in trainer.__mro__[:-1]}
    everything = [name for names in known.values() for name in names]
    for name in given:
        if name not in everything:
            own = ", ".join(name for name in known[trainer] if name not in ("args", "kwargs"))
            raise RecipeError(
                f"{trainer.__name__} has no keyword {name}.{did_you_mean(name, everything)}",
                hint=f"It takes {own}, and whatever transformers.Trainer takes.",
            )


def objective_of(given: Any) -> Objective:
    """The objective of that name in the registry, or the one that was made already; RecipeError for what is none."""
    if isinstance(given, str):
        return cast("Objective", registry.load("objectives", given)())
    if isinstance(given, type):
        raise RecipeError(f"objective is the class {given.__name__}.", hint=f"Pass one that is made of it: objective={given.__name__}()")
    try:
        signature(given).bind("p", "q", "ratio", "shift")
    except (TypeError, ValueError):
        known = ", ".join(registry.names("objectives"))
        raise RecipeError(
            f"objective cannot be called with p, q, ratio and shift: it is of type {type(given).__name__}.",
            hint=f"Pass a name ({known}) or an object as in docs/extending.md.",
        ) from None
    return cast("Objective", given)


def known_teachers(models: Any, caches: Any, tokenizers: Any) -> list[Teacher]:
    """One for each model or cache that is given, models by name loaded; RecipeError if their numbers differ."""
    given, kept, known = listed(models), listed(caches), listed(tokenizers)
    count = max(len(given), len(kept))
    if any(len(part) not in (0, count) for part in (given, kept, known)):
        raise RecipeError(
            f"There are {len(given)} teachers, {len(kept)} caches and {len(known)} tokenizers for them.", hint="Give one of each."
        )
    if len({cache.key.kind for cache in kept}) > 1:
        raise RecipeError("The teachers' caches are of different kinds.", hint="Build all of one kind.")
    if len({cache.key.vocabulary for cache in kept if not cache.signal.keeps_head}) > 1:
        raise VocabularyMismatch("The teachers' gradient caches are of different vocabularies.", hint="Use cache: hidden, or cache: none.")
    teachers = []
    for number in range(count):
        model, tokenizer = given[number] if given else None, known[number] if known else None
        if isinstance(model, str | PathLike):
            model, loaded = by_name(model)
            tokenizer = tokenizer or loaded
        teachers.append(Teacher(model, kept[number] if kept else None, tokenizer))
    return teachers


def check_kinds(*, model: Any, teacher_models: Sequence[Any], args: Any, model_init: Any) -> None:
    """Raises RecipeError for what cannot be a model or the arguments of a Trainer, ModelError for a model that does not continue text."""
    if model is None and model_init is None:
        raise RecipeError("There is no model to train.", hint="Pass model=, a model or the name of one.")
    for name, given in (("model", model), *(("teacher_model", teacher) for teacher in teacher_models)):
        if given is not None and not isinstance(given, torch.nn.Module | SelfTeacher):
            raise RecipeError(f"{name} is of type {type(given).__name__}.", hint="Pass a model, or the name of one.")
        if isinstance(given, torch.nn.Module):
            check_causal(given)
    if args is not None and not isinstance(args, TrainingArguments):
        raise RecipeError(f"args is of type {type(args).__name__}.", hint='Pass transformers.TrainingArguments("folder", ...).')
    if args is not None and (others := _settings_of_others(args)):
        warnings.warn(f"{type(args).__name__} sets what has no effect here: {', '.join(others)}.", stacklevel=3)


def check_model_init(model_init: Any, teacher_model: Any, features: Any) -> None:
    """Raises RecipeError where `model_init` makes another model than the one that the teacher is, or is compared with."""
    of_the_first = 'teacher_model="self" is' if teacher_model == SELF else "features are" if features else None
    if model_init is not None and of_the_first:
        raise RecipeError(f"{of_the_first} of one model, and model_init makes a new one for each training.", hint="Pass model= instead.")


def warn_of_smaller(teachers: Sequence[Any], student: Any) -> None:
    """Warns where a teacher is smaller than its student without a new adapter; the plan of a run says it by itself."""
    if student is None:
        return
    ours = parameters_of(student) - (trainable(student) if hasattr(student, "peft_config") else 0)
    for teacher in teachers:
        if not isinstance(teacher, torch.nn.Module) or getattr(causal_lm(teacher), "quantization_method", None) not in COUNTED:
            continue
        if said := swapped(parameters_of(teacher), ours):
            warnings.warn(said, stacklevel=3)


def warn_of_16_bits(student: Any) -> None:
    """Warns where the weights that train have 16 bits, as files often have them; a run loads such a model in 32."""
    learning = {parameter.dtype for parameter in student.parameters() if parameter.requires_grad}
    if short := sorted(str(kind).removeprefix("torch.") for kind in learning & {torch.float16, torch.bfloat16}):
        warnings.warn(
            f"The weights that train are in {short[0]}, where small updates are lost: load the model with dtype=torch.float32. "
            "With bf16=True it computes in 16 bits all the same.",
            stacklevel=3,
        )


def _settings_of_others(args: TrainingArguments) -> list[str]:
    """What arguments for another trainer say beside those of every Trainer: max_length=1024 of TRL's SFTConfig."""
    usual = {field.name for field in fields(TrainingArguments)}
    own = [field for field in fields(args) if field.init and field.name not in usual]
    given = {field.name: getattr(args, field.name) for field in own if field.default_factory is MISSING}
    return [f"{field.name}={given[field.name]!r}" for field in own if field.name in given and given[field.name] != field.default]


def check_together(
    student: Any, teachers: Sequence[Teacher], *, alpha: float, weights: Sequence[float] | None, rows: Sequence[int] | None
) -> None:
    """Raises RecipeError where nobody teaches, where a teacher is not apart from its student, and for `weights` and `rows` at once."""
    if not teachers and alpha < 1:
        raise RecipeError("There is neither a teacher_model nor a cache.", hint="Pass teacher_model=.")
    _check_apart(student, [teacher.model for teacher in teachers])
    if rows is not None and weights is not None:
        raise RecipeError("teacher_rows and teacher_weights exclude each other.", hint="Mix teachers, or give each its own rows.")


def _check_apart(student: Any, teachers: Sequence[Any]) -> None:
    """Raises RecipeError where a teacher is the student, or has weights that it trains: those would be frozen, or teach themselves."""
    ours = {id(parameter) for parameter in student.parameters() if parameter.requires_grad} if student is not None else set()
    for teacher in teachers:
        if teacher is None or isinstance(teacher, SelfTeacher):
            continue
        if teacher is student:
            raise RecipeError("Teacher and student are the same model.", hint="Load the student separately, or make one from the teacher.")
        if any(id(parameter) in ours for parameter in teacher.parameters()):
            raise RecipeError(
                "Teacher and student share weights that are to be trained, so one would change with the other.",
                hint='Copy what both have (copy.deepcopy). A model without its new adapter is teacher_model="self".',
            )


def by_name(name: str | PathLike[str]) -> tuple[Any, Any]:
    """A model and its tokenizer, from the Hub or from this disk; raises ModelError."""
    runtime = RuntimeOptions()
    located = locate(str(name), runtime, Recorder())
    return load_model(located, inspect(runtime)), load_tokenizer(located)


def _has_rows(part: Any) -> bool:
    """Whether this is a dataset, and no column of one."""
    return hasattr(part, "column_names") or (isinstance(part, list) and bool(part) and isinstance(part[0], Mapping))


def as_tokens(rows: Any, tokenizer: Any, *, collates: bool = False, several: bool = False) -> Any:
    """Rows of tokens as they are, rows of text or those of a file as tokens; DatasetError for what is neither, or has no tokenizer.

    Without a tokenizer a caller whose collator `collates` has rows of a kind that only that knows. To evaluate, there may be `several`
    datasets by name.
    """
    from_file = isinstance(rows, str | PathLike)
    if from_file:
        rows = rows_of_file(rows)
    if isinstance(rows, Iterator):
        raise DatasetError("The rows are a generator, which can be read only once.", hint="Pass a list: list(rows).")
    names = getattr(rows, "column_names", None)
    streams = not isinstance(names, list) and isinstance(rows, torch.utils.data.IterableDataset)
    if streams or not hasattr(rows, "__getitem__"):
        return rows
    if isinstance(rows, Mapping) and any(_has_rows(part) for part in rows.values()):
        if not several:
            raise DatasetError(f"There are several datasets: {', '.join(map(str, rows))}.", hint="Pass one of them, such as rows['train'].")
        return {name: as_tokens(part, tokenizer, collates=collates) for name, part in rows.items()}
    is_table = any(hasattr(rows, of) for of in ("iloc", "to_dicts", "to_pylist"))  # of pandas, polars, pyarrow
    if isinstance(rows, Mapping) or is_table or (hasattr(rows, "__len__") and not len(rows)):
        rows = records(rows)  # columns, as a tokenizer returns them for many texts; no rows are refused
    first = dict.fromkeys(names) if isinstance(names, list) else rows[0]
    if isinstance(first, Mapping) and "input_ids" in first and not from_file:
        if collates and "labels" not in first and (mask := next((name for name in LEARNED if name in first), None)):
            warnings.warn(
                f"The data_collator gets {mask} only with remove_unused_columns=False: unless it makes labels, every token is learned.",
                stacklevel=3,
            )
        return rows
    if not hasattr(rows, "__len__"):
        if collates:
            return rows
        raise DatasetError(
            "The rows are a stream of text, which would have to be read to its end first.",
            hint="Map it to input_ids and labels, or take a part of it: list(rows.take(10_000)).",
        )
    turns = isinstance(first, list | tuple) and all(isinstance(turn, Mapping | str) for turn in first)
    if not isinstance(first, Mapping | str) and not turns:
        return rows  # an example of a kind that only its own collator knows
    if tokenizer is None and collates:
        return rows
    if tokenizer is None:
        raise DatasetError(
            "The rows are text, and there is no tokenizer for them.",
            hint="Pass processing_class=tokenizer, or rows of input_ids and labels.",
        )
    return tokens(rows, tokenizer)


def numbered_rows(given: Mapping[str, Any], teachers: Sequence[Teacher], routes: Sequence[int] | None, *, prompted: bool) -> dict[str, Any]:
    """Those of the datasets `given` whose rows must have a number, with it: for a cache, for `routes`, for the prompt of a teacher.

    Rows that are held out are numbered after those to train on. Raises RecipeError where these are not the rows of a cache.
    """
    caches = [teacher.cache for teacher in teachers if teacher.cache is not None]
    if given.get("train_dataset") is None or not (caches or routes is not None or prompted):
        return {}
    names = [name for name in ("train_dataset", "held_out") if given.get(name) is not None]
    return dict(zip(names, numbered([given[name] for name in names], caches, routes, len(teachers)), strict=True))
