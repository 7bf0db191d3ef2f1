"""The plan of a run whose student is reached in several rounds: the sum of what they take, and the most that one of them needs.

plan = estimate_rounds(context, shapes_of(context), measured={})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.benchmark.names import share
from finetune.planning.estimate import Plan, disk_problem, estimate
from finetune.planning.expectations import expectations
from finetune.planning.seconds import GENERATED_PER_SECOND
from finetune.planning.shape import Shape
from finetune.planning.stages import DECIDING, TEACHER, added
from finetune.run_context import RunContext

OTHER_LAYERS = (
    "Each round compares other layers of the teacher, so no cache serves them all: "
    "the teacher stays in memory and runs at every step, which this plan counts."
)
STOPS = "The rounds stop at the first student that keeps less than {share} of its teacher's ROUGE-L: there may be fewer than planned."
ANSWER, GPU = 40, 20.0  # tokens of an answer; times faster


def estimate_rounds(context: RunContext, shapes: Sequence[Shape], measured: Mapping[str, Any], *, notes: Sequence[str] = ()) -> Plan:
    """What `estimate` says of each round as one plan; `measured` are real steps of the first round, the largest. Prepares the data.

    The student is that of the last round. The cache serves all of them, unless each student teaches the next one.
    """
    rounds = context.rounds
    notes = [*notes, OTHER_LAYERS] if context.recipe.distillation.compares_other_layers else notes
    first = estimate(rounds[0], shapes[0], measured, notes=notes)
    if len(rounds) == 1 and not context.recipe.distillation.until:
        return first
    pairs = list(zip(rounds, shapes, strict=True))
    slower = first.seconds / estimate(rounds[0], shapes[0], {}).seconds if measured.get("seconds") else 1.0
    further = [estimate(each, shape, {}, further=True) for each, shape in pairs[1:]]
    last = estimate(rounds[-1], shapes[-1], {}, notes=notes)
    weight = 4 if first.dtype == "float32" else 2
    between = sum(shape.learning.parameters * weight for shape in shapes[:-1][:2])  # the next student is saved before the last one goes
    until, assisted = context.recipe.distillation.until, context.recipe.distillation.round_teacher == "previous"
    disk = first.disk_bytes + between + (len(further) * first.cache_bytes if assisted else 0)
    problems = [
        problem for problem in first.problems if problem != disk_problem(first.disk_bytes, first.free_disk, context.recipe.output_dir)
    ]
    if disk > first.free_disk:
        problems.append(disk_problem(disk, first.free_disk, context.recipe.output_dir))
    # A student reads all rows once, forward alone: a third of a pass of its training. Its answers take as much room as its teacher's.
    asking = sum(plan.seconds for plan in (first, *further)[:-1]) / (3 * context.recipe.training.passes) if assisted else 0.0
    later = [{name: slower * seconds for name, seconds in plan.stages.items()} for plan in further]
    stages = added(first.stages, *later, {TEACHER: asking, DECIDING: _deciding_seconds(context, shapes) if until else 0.0})
    return replace(
        first,
        steps=sum(plan.steps for plan in (first, *further)),
        parameters=last.parameters,
        trainable_parameters=last.trainable_parameters,
        seconds=sum(stages.values()),
        stages=stages,
        disk_bytes=disk,
        problems=problems,
        linear_share=last.linear_share,
        notes=[*last.notes, *([STOPS.format(share=share(until.retention))] if until else [])],
        warnings=expectations(context, [shapes[0].model.layers, *(shape.learning.layers for shape in shapes)]),
        speed_up=last.speed_up,
        rounds=[{"layers": shape.learning.layers, "steps": plan.steps} for shape, plan in zip(shapes, (first, *further), strict=True)],
    )


def _deciding_seconds(context: RunContext, shapes: Sequence[Shape]) -> float:
    """Answers of the teacher and of each student to the validation rows."""
    answers = context.data.report.deciding * ANSWER * (shapes[0].model.parameters + sum(shape.learning.parameters for shape in shapes))
    return answers / GENERATED_PER_SECOND / (1 if context.machine.device == "cpu" else GPU)
