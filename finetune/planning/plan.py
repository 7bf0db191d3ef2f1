"""The plan of a run from its parts: located models, prepared data, the machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.distillation.student import kept_layers
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import RecipeError
from finetune.formatting import quoted
from finetune.models.facts import ModelFacts, describe
from finetune.models.load import load_tokenizer
from finetune.planning.estimate import Plan, estimate
from finetune.planning.measure import measure_first
from finetune.planning.shape import trainable_parameters
from finetune.recipe import Recipe, StudentSpec
from finetune.run_folder import RunFolder, beside
from finetune.storage import free_disk

if TYPE_CHECKING:
    from finetune.run.finetuner import LLMFineTuner


def plan(tuner: LLMFineTuner, *, measure: bool = False) -> Plan:
    """What the run will cost, by arithmetic or by a few real steps; prepares the data, leaves nothing else behind."""
    shape = shape_of(tuner)
    tuner.check_data()
    measured = measure_first(tuner) if measure else None
    found = estimate(
        tuner.recipe,
        shape.model,
        tuner.data.report,
        tuner.machine,
        parameters=shape.parameters,
        layers=shape.layers or shape.model.layers,
        linear=shape.linear,
        trainable=shape.trainable,
        teacher=shape.teacher,
        free_disk=free_disk(tuner.folder.output_dir),
        measured=measured.to_dict() if measured else None,
    )
    refused = [name for name in found.methods if no_adapter(tuner, registry.load("methods", name))]
    return replace(found, methods={name: needed for name, needed in found.methods.items() if name not in refused})


def check_lengths(tuner: LLMFineTuner) -> None:
    """Raises RecipeError if a row, or the answers of the benchmark, are longer than what the model or its teacher can read at once."""
    models = [describe(located) for located in ([tuner.located, tuner.teacher_located] if tuner.distils else [tuner.located])]
    known = [(model.context, model.name) for model in models if model.context]
    if not known:
        return
    context, name = min(known)
    longest = max([int(tuner.data.report.length["max"]), *tuner.data.held_out["length"][:]])
    if longest > context:
        raise RecipeError(
            f"The longest row has {longest:,} tokens, and {name} reads {context:,} at most.",
            hint=f"Cut the rows: --set dataset.max_length={context}, or choose a model with a longer context.",
        )
    answers = tuner.recipe.benchmark.max_new_tokens
    if answers != "auto" and answers >= context:
        raise RecipeError(
            f"benchmark.max_new_tokens is {answers:,}, and {name} reads {context:,} tokens at most, prompts included.",
            hint="Leave it to the answers in the data: --set benchmark.max_new_tokens=auto",
        )


def no_adapter(tuner: LLMFineTuner, method: Any) -> RecipeError | None:
    """Why `method` cannot train the model of this run: its adapter would belong to weights that are in no file; None if it can."""
    if method.footprint(method.Spec()).rank is None:
        return None
    if tuner.student_is_made:
        return RecipeError(
            f"A student made from its teacher cannot be trained by {method.title}: an adapter alone does not hold the student's layers.",
            hint="--set method.kind=full, or name a ready-made student: --set model=MODEL",
        )
    located = tuner.located
    if located.base is None:
        return None
    merged = "a merged copy of the two (merge_and_unload of peft)"
    if located.source.path is not None and RunFolder(located.source.path).recipe.is_file():
        to = beside(located.source.path, "-merged")
        merged = f"finetune-cli merge {quoted(located.source.path)}, then --set model={quoted(to)}"
    return RecipeError(
        f"{located.name} is an adapter; one that is trained on top of it would be loaded without it by other programs.",
        hint=f"Merge it into its base first: {merged}. Or train every weight: --set method.kind=full",
    )


@dataclass(frozen=True)
class Shape:
    """The models of a run in numbers; `layers` are those of a student made from its teacher."""

    model: ModelFacts
    teacher: ModelFacts | None
    layers: int | None
    trainable: int
    parameters: int
    linear: int


def shape_of(tuner: LLMFineTuner) -> Shape:
    """The shape of a run's models; nothing is loaded, and what attaching the method to loaded ones would raise is raised now.

    VocabularyMismatch if teacher and student have different tokenizers, RecipeError for a student of no or of all layers, and where
    `no_adapter` says so.
    """
    if problem := no_adapter(tuner, tuner.method):
        raise problem
    recipe, facts = tuner.recipe, describe(tuner.located)
    teacher: ModelFacts | None = None
    layers: int | None = None
    if tuner.distils:
        teacher = describe(tuner.teacher_located)
        if isinstance(recipe.model, StudentSpec):
            layers = kept_layers(recipe.model.from_teacher.layers, facts.layers)
        else:
            shared_vocabulary(facts.vocabulary, teacher.vocabulary, tuner.tokenizer, load_tokenizer(tuner.teacher_located))
    return Shape(facts, teacher, layers, *trainable_parameters(tuner.located, tuner.method, recipe.method, layers=layers))


@dataclass(frozen=True)
class MemoryFix:
    """A change that lowers the memory of a run to `memory_total` bytes; `text` names it for people."""

    text: str
    changes: dict[str, Any]
    memory_total: int


def memory_fixes(tuner: LLMFineTuner, found: Plan, *, most: int = 3) -> list[MemoryFix]:
    """What makes a run fit into memory, least costly first: same result, then slower, then another method; nothing fits: the smallest."""
    real = found.memory_total / found.memory_by_arithmetic  # other than one if the plan was measured
    ways = []
    adapters = no_adapter(tuner, registry.load("methods", "lora")) is None
    for text, changes in _changes(tuner.recipe, device=tuner.machine.device, adapters=adapters):
        changed = copy.copy(tuner)  # with its data and models, which these changes leave as they are
        changed.recipe = tuner.recipe.with_changes(changes)
        changed.__dict__.pop("method", None)
        ways.append(MemoryFix(text, changes, round(real * plan(changed).memory_total)))
    fitting = [way for way in ways if way.memory_total <= found.free_memory]
    return fitting[:most] or sorted(ways, key=lambda way: way.memory_total)[:1]


def _changes(recipe: Recipe, *, device: str, adapters: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    spec, batches = recipe.training, device != "cpu"
    saved = {"activation_checkpointing": True}
    smallest: dict[str, Any] = {}
    size, together = spec.batch_size, spec.gradient_accumulation
    while batches and size > 1:  # a CPU works through a batch in pieces anyway
        size, together = size // 2, together * 2
        smallest = {"batch_size": size, "gradient_accumulation": together}
        yield f"batch size {size}, {together} batches a step (same result)", {"training": smallest}
    if spec.activation_checkpointing is not True:
        yield "activation checkpointing (a third slower)", {"training": saved}
        if smallest:
            yield "both: batch size 1 and activation checkpointing", {"training": {**smallest, **saved}}
    if adapters and recipe.method.kind == "full":  # type: ignore[attr-defined]
        yield "LoRA instead of full training", {"method": {"kind": "lora"}, "training": {**smallest, **saved}}
    quantised = registry.load("methods", "qlora")
    if adapters and recipe.method.kind != "qlora" and not quantised.check(quantised.Spec(), device):  # type: ignore[attr-defined]
        yield "QLoRA: the model in 4 bits (slower)", {"method": {"kind": "qlora"}, "training": {**smallest, **saved}}
