"""The plan of a run whose student is reached in several rounds: the sum of what they take, and the most that one of them needs.

plan = estimate_rounds(context, shapes_of(context), measured={})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.planning.estimate import Plan, Shape, disk_problem, estimate
from finetune.planning.expectations import expectations
from finetune.run_context import RunContext


def estimate_rounds(context: RunContext, shapes: Sequence[Shape], measured: Mapping[str, Any], *, notes: Sequence[str] = ()) -> Plan:
    """What `estimate` says of each round as one plan; `measured` are real steps of the first round, the largest. Prepares the data.

    The student is that of the last round. The cache serves all of them.
    """
    rounds = context.rounds
    first = estimate(rounds[0], shapes[0], measured, notes=notes)
    if len(rounds) == 1:
        return first
    pairs = list(zip(rounds, shapes, strict=True))
    slower = first.seconds / estimate(rounds[0], shapes[0], {}).seconds if measured.get("seconds") else 1.0
    further = [estimate(each, shape, {}, further=True) for each, shape in pairs[1:]]
    last = estimate(rounds[-1], shapes[-1], {}, notes=notes)
    weight = 4 if first.dtype == "float32" else 2
    between = sum(shape.learning.parameters * weight for shape in shapes[:-1][:2])  # the next student is saved before the last one goes
    disk = first.disk_bytes + between
    problems = [
        problem for problem in first.problems if problem != disk_problem(first.disk_bytes, first.free_disk, context.recipe.output_dir)
    ]
    if disk > first.free_disk:
        problems.append(disk_problem(disk, first.free_disk, context.recipe.output_dir))
    return replace(
        first,
        steps=sum(plan.steps for plan in (first, *further)),
        parameters=last.parameters,
        trainable_parameters=last.trainable_parameters,
        seconds=first.seconds + slower * sum(plan.seconds for plan in further),
        disk_bytes=disk,
        problems=problems,
        linear_share=last.linear_share,
        notes=last.notes,
        warnings=expectations(context, [shapes[0].model.layers, *(shape.learning.layers for shape in shapes)]),
        speed_up=last.speed_up,
        rounds=[{"layers": shape.learning.layers, "steps": plan.steps} for shape, plan in zip(shapes, (first, *further), strict=True)],
    )
