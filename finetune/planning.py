"""The plan of a run from its parts: located models, prepared data, the machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.distillation.student import kept_layers
from finetune.models.facts import ModelFacts, describe
from finetune.models.machine import free_disk
from finetune.recipe import Recipe, StudentSpec
from finetune.training.plan import Plan, estimate
from finetune.training.shape import trainable_parameters

if TYPE_CHECKING:
    from finetune.finetuner import LLMFineTuner


def plan(tuner: LLMFineTuner) -> Plan:
    """What the run will cost; prepares the data, trains nothing."""
    recipe = tuner.recipe
    facts, layers = describe(tuner.located), None
    if isinstance(recipe.model, StudentSpec):
        layers = kept_layers(recipe.model.from_teacher.layers, facts.layers)
    trainable, parameters = trainable_parameters(tuner.located, tuner.method, recipe.method, layers=layers)
    teacher: ModelFacts | None = describe(tuner.teacher_located) if tuner.distils else None
    return estimate(
        recipe,
        facts,
        tuner.data.report,
        tuner.machine,
        parameters=parameters,
        layers=layers or facts.layers,
        trainable=trainable,
        teacher=teacher,
        free_disk=free_disk(tuner.folder.output_dir),
    )


@dataclass(frozen=True)
class WayOut:
    """A change that lowers the memory of a run to `memory_total` bytes; `text` names it for people."""

    text: str
    changes: dict[str, Any]
    memory_total: int


def ways_out(tuner: LLMFineTuner, found: Plan, *, most: int = 3) -> list[WayOut]:
    """What makes a run fit into memory, least costly first: same result, then slower, then another method; nothing fits: the smallest."""
    ways = []
    for text, changes in _changes(tuner.recipe):
        changed = copy.copy(tuner)  # with its data and models, which these changes leave as they are
        changed.recipe = tuner.recipe.with_changes(changes)
        changed.__dict__.pop("method", None)
        ways.append(WayOut(text, changes, plan(changed).memory_total))
    fitting = [way for way in ways if way.memory_total <= found.free_memory]
    return fitting[:most] or sorted(ways, key=lambda way: way.memory_total)[:1]


def _changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = recipe.training
    saved = {"activation_checkpointing": True}
    smallest: dict[str, Any] = {}
    size, together = spec.batch_size, spec.gradient_accumulation
    while size > 1:
        size, together = size // 2, together * 2
        smallest = {"batch_size": size, "gradient_accumulation": together}
        yield f"batch size {size}, {together} batches a step (same result)", {"training": smallest}
    if spec.activation_checkpointing is not True:
        yield "activation checkpointing (a third slower)", {"training": saved}
        if smallest:
            yield "both: batch size 1 and activation checkpointing", {"training": {**smallest, **saved}}
    if recipe.method.kind == "full":  # type: ignore[attr-defined]
        yield "LoRA instead of full training", {"method": {"kind": "lora"}, "training": {**smallest, **saved}}
