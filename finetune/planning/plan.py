"""The plan of a run from its parts: located models, prepared data, the machine.

found = plan(context)                     # by arithmetic
found = plan(context, measure=True)       # from a few real steps
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from finetune.errors import RecipeError
from finetune.planning.across_tokenizers import alignment_notes
from finetune.planning.checks import check_data, check_tokens
from finetune.planning.epochs import settled
from finetune.planning.estimate import Plan
from finetune.planning.measure import measure_first
from finetune.planning.rounds import estimate_rounds
from finetune.planning.shape import shapes_of
from finetune.planning.stages import WRITING, added
from finetune.run_context import RunContext

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData

WHOLE = "Nothing was measured: one process that makes a few steps would need all of the model."


def plan(context: RunContext, *, measure: bool = False) -> Plan:
    """What the run will cost, by arithmetic or by a few real steps; prepares the data, leaves nothing else behind.

    A model that is to be cut into shards is not measured. Raises RecipeError if it is to be measured and the teacher is on a server; else
    what `shapes_of`, `check_data`, `check_tokens` and `alignment_notes` raise.
    """
    if measure and context.recipe.grader:
        raise RecipeError("A plan sends nothing to a server, so no step can be measured.", hint="Plan without measuring, or start the run.")
    shapes = shapes_of(context)
    check_data(context)
    notes, alignment = check_tokens(context, shapes[-1].learning.embeddings), alignment_notes(context)
    found = estimate_rounds(context, shapes, {}, notes=[*notes, WHOLE] if measure else notes)
    if measure and found.shards == 1:
        found = estimate_rounds(context, shapes, measure_first(context.rounds[0]).to_dict(), notes=notes)
    return replace(found, alignment=alignment)


def plan_without_rows(context: RunContext, *, measure: bool) -> tuple[Plan, PreparedData]:
    """The plan of a run whose rows are still to be written, and the rows that it expects.

    Raises RecipeError if it is to be measured, and what the source's check raises.
    """
    if measure:
        raise RecipeError("Nothing can be measured before the rows are written.", hint="Plan without measuring, or start the run.")
    context.source.check(context)
    making, expected = context.source.cost(context), context.source.expected(context)
    begun = settled(context.beside(data=expected))
    if begun.recipe.training.evaluates != context.recipe.training.evaluates:
        expected = context.source.expected(begun)
        begun = begun.beside(data=expected)
    found = plan(begun)
    stages = added(found.stages, {WRITING: making.seconds})
    return replace(found, seconds=sum(stages.values()), stages=stages, making=asdict(making)), expected
