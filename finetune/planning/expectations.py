"""What can be said of a result before the run: a student cut too small to be usable, held-out rows too few to judge by.

for sentence in expectations(context, layers=4, of=30):
    ...        # "9 held-out rows ... --set dataset.held_out=0.2"
"""

from __future__ import annotations

import math

from finetune.benchmark.names import FEWEST_ROWS, share
from finetune.run_context import RunContext

ENOUGH = 20  # held-out rows to propose: with the fewest, only large changes are seen
MOST_HELD_OUT = 0.3  # of the rows; beyond it, more rows are needed
FEWEST_LAYERS = 0.5  # of the teacher's


def expectations(context: RunContext, *, layers: int, of: int) -> list[str]:
    """Sentences for people, each with what to do about it; a student made from its teacher has `layers` of its `of` layers."""
    return [said for said in (_too_small(context, layers, of), _too_few(context)) if said]


def _too_small(context: RunContext, layers: int, of: int) -> str | None:
    """Of a student that is cut out of its teacher: measured, those of half the layers answer poorly and smaller ones nonsense."""
    if not context.student_is_made or layers >= FEWEST_LAYERS * of:
        return None
    keep = math.ceil(of * 2 / 3)
    return (
        f"The student keeps {layers} of its teacher's {of} layers ({share(layers / of)}). Below half, expect it to be not usable: "
        f"keep about {keep} (--set model.from_teacher.layers={keep}), and make a smaller one from the result."
    )


def _too_few(context: RunContext) -> str | None:
    """Of held-out rows that are too few for any verdict, and how there would be enough."""
    report, recipe = context.data.report, context.recipe
    rows = min(recipe.benchmark.rows, report.held_out)
    if rows >= FEWEST_ROWS:
        return None
    said = f"{rows} held-out row{'s are' if rows != 1 else ' is'} too few to judge the result: {FEWEST_ROWS} would do, {ENOUGH} are better"
    if report.held_out >= FEWEST_ROWS:
        return f"{said} (--set benchmark.rows={min(ENOUGH, report.held_out)})."
    wanted = math.ceil(100 * ENOUGH / max(1, report.train + report.held_out)) / 100
    if recipe.dataset.eval_split is None and wanted <= MOST_HELD_OUT:
        return f"{said} (--set dataset.held_out={wanted:g})."
    return f"{said}. Add rows to the data."
