"""The plan of a run from its parts: located models, prepared data, the machine.

found = plan(context)                     # by arithmetic
found = plan(context, measure=True)       # from a few real steps
"""

from __future__ import annotations

from dataclasses import replace

from finetune.planning.across_tokenizers import alignment_notes
from finetune.planning.checks import check_data, check_tokens
from finetune.planning.estimate import Plan, estimate
from finetune.planning.measure import measure_first
from finetune.planning.shape import shape_of
from finetune.run_context import RunContext


def plan(context: RunContext, *, measure: bool = False) -> Plan:
    """What the run will cost, by arithmetic or by a few real steps; prepares the data, leaves nothing else behind.

    Raises what `shape_of`, `check_data`, `check_tokens` and `alignment_notes` raise.
    """
    shape = shape_of(context)
    check_data(context)
    notes, alignment = check_tokens(context, shape.learning.embeddings), alignment_notes(context)
    found = estimate(context, shape, measure_first(context).to_dict() if measure else {}, notes=notes)
    return replace(found, alignment=alignment)
