"""The plan of a run from its parts: located models, prepared data, the machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.calibration import Measurement
from finetune.distillation.student import kept_layers
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.models.facts import ModelFacts, describe
from finetune.models.load import load_tokenizer
from finetune.models.machine import free_disk
from finetune.recipe import Recipe, StudentSpec
from finetune.training.plan import Plan, estimate
from finetune.training.shape import trainable_parameters

if TYPE_CHECKING:
    from finetune.finetuner import LLMFineTuner


def plan(tuner: LLMFineTuner, measured: Measurement | None = None) -> Plan:
    """What the run will cost, by arithmetic or as `measured`; prepares the data, trains nothing."""
    shape = shape_of(tuner)
    tuner.check_steps()
    return estimate(
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

    VocabularyMismatch if teacher and student have different tokenizers, RecipeError for a student of no or of all layers.
    """
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
class WayOut:
    """A change that lowers the memory of a run to `memory_total` bytes; `text` names it for people."""

    text: str
    changes: dict[str, Any]
    memory_total: int


def ways_out(tuner: LLMFineTuner, found: Plan, *, most: int = 3) -> list[WayOut]:
    """What makes a run fit into memory, least costly first: same result, then slower, then another method; nothing fits: the smallest."""
    real = found.memory_total / found.memory_by_arithmetic  # other than one if the plan was measured
    ways = []
    for text, changes in _changes(tuner.recipe, device=tuner.machine.device):
        changed = copy.copy(tuner)  # with its data and models, which these changes leave as they are
        changed.recipe = tuner.recipe.with_changes(changes)
        changed.__dict__.pop("method", None)
        ways.append(WayOut(text, changes, round(real * plan(changed).memory_total)))
    fitting = [way for way in ways if way.memory_total <= found.free_memory]
    return fitting[:most] or sorted(ways, key=lambda way: way.memory_total)[:1]


def _changes(recipe: Recipe, *, device: str) -> Iterator[tuple[str, dict[str, Any]]]:
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
    if recipe.method.kind == "full":  # type: ignore[attr-defined]
        yield "LoRA instead of full training", {"method": {"kind": "lora"}, "training": {**smallest, **saved}}
    quantised = registry.load("methods", "qlora")
    in_4_bits = not isinstance(recipe.model, StudentSpec) and recipe.method.kind != "qlora"  # type: ignore[attr-defined]
    if in_4_bits and not quantised.check(quantised.Spec(), device):
        yield "QLoRA: the model in 4 bits (slower)", {"method": {"kind": "qlora"}, "training": {**smallest, **saved}}
