"""The plan of a run from its parts: located models, prepared data, the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.distillation.student import kept_layers
from finetune.models.facts import ModelFacts, describe
from finetune.models.machine import free_disk
from finetune.recipe import StudentSpec
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
