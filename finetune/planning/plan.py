"""The plan of a run from its parts: located models, prepared data, the machine.

found = plan(context)                     # by arithmetic
found = plan(context, measure=True)       # from a few real steps
"""

from __future__ import annotations

from dataclasses import replace

from finetune import registry
from finetune.paths import typed_path
from finetune.planning.checks import adapter_problem, check_data
from finetune.planning.estimate import Plan, estimate
from finetune.planning.measure import measure_first
from finetune.planning.shape import shape_of
from finetune.run_context import RunContext
from finetune.storage import free_disk


def plan(context: RunContext, *, measure: bool = False) -> Plan:
    """What the run will cost, by arithmetic or by a few real steps; prepares the data, leaves nothing else behind.

    Raises what `shape_of` and `check_data` raise.
    """
    shape = shape_of(context)
    check_data(context)
    measured = measure_first(context) if measure else None
    found = estimate(
        context.recipe,
        shape.model,
        context.data.report,
        context.machine,
        parameters=shape.parameters,
        layers=shape.layers or shape.model.layers,
        linear=shape.linear,
        trainable=shape.trainable,
        teacher=shape.teacher,
        free_disk=free_disk(typed_path(context.recipe.output_dir)),
        measured=measured.to_dict() if measured else None,
    )
    refused = [name for name in found.methods if adapter_problem(context, registry.load("methods", name))]
    return replace(found, methods={name: needed for name, needed in found.methods.items() if name not in refused})
