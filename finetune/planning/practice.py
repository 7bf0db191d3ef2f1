"""Before the run: what practice on a student's own answers takes, and what the data let expect of it.

check_practice(context)                                     # raises RecipeError for rows without prompts
cost = practice_cost(context, student=90e6, teachers=135e6, rate=2e10)
cost.seconds, cost.note                                     # of writing, and of the teachers that read
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from finetune.formatting import count, percent, roughly
from finetune.models.facts import ModelFacts, describe
from finetune.recipe.task_settings import practises
from finetune.run_context import RunContext

CUT = 0.5  # of the data's own answers; if more are longer, so will be the student's


@dataclass(frozen=True)
class PracticeCost:
    """The time that practice takes, and a `note` about it for people; nothing of it without practice."""

    seconds: float = 0.0
    note: str = ""


def check_practice(context: RunContext) -> None:
    """Raises RecipeError where a student cannot practise on these rows: no prompts, or no room for an answer. Prepares the data."""
    if (spec := context.recipe.distillation.practice) is None:
        return
    from finetune.distillation.on_policy.answers import check_prompts

    limit = describe(context.located).context or 1 << 20
    named = f"on_policy (`distillation.task: {task}`)" if practises(task := context.recipe.distillation.task) else "on_policy"
    check_prompts(context.data.train["answer_start"][:], tokens=spec.tokens, context=limit, named=named)


def practice_cost(context: RunContext, *, student: float, teachers: float, rate: float) -> PracticeCost:
    """Time and words for it; parameters of the student and of all teachers together, operations a second. Prepares the data.

    A batch writes until its longest answer ends, and every token of it costs as much as some more, since all weights are read.
    """
    recipe, rows = context.recipe, context.data.train
    if (spec := recipe.distillation.practice) is None:
        return PracticeCost()
    import numpy as np

    from finetune.training.decoding import LARGEST_BATCH, STEP_IN_TOKENS

    prompts, answer = _lengths(rows)
    prompt = float(prompts.mean())
    answers = math.ceil(spec.share * len(rows) * max(0.0, recipe.training.passes - 1))
    reading = STEP_IN_TOKENS / min(spec.refresh, LARGEST_BATCH) if context.machine.device == "cpu" else 0.0
    written = answers * (prompt + spec.tokens * (1 + reading))
    read = answers * (prompt + float(np.minimum(answer, spec.tokens).mean()))
    seconds = 2 * (student * written + teachers * read) / rate
    note = (
        f"After the first epoch {percent(spec.share)} of the rows are the student's own answers: about {count(answers)} of up to "
        f"{spec.tokens} tokens, {spec.refresh} at a time. Writing them, and the teacher that reads them, take {roughly(seconds)}; the "
        "learning rate is a fifth there."
    )
    return PracticeCost(seconds, note)


def likely_cut(context: RunContext) -> str | None:
    """Of answers in the data of which most are longer than the student's may be: what will happen, and what to do. Prepares the data."""
    spec, rows = context.recipe.distillation.practice, context.data.train
    if spec is None:
        return None
    import numpy as np

    _, answer = _lengths(rows)
    if (longer := float((answer > spec.tokens).mean())) <= CUT:
        return None
    return (
        f"{percent(longer)} of the answers in the data have more than {spec.tokens} tokens, so most of the student's will be cut off, and "
        f"practice stops then: --set distillation.on_policy.tokens={math.ceil(float(np.percentile(answer, 95)))}"
    )


def _lengths(rows: Any) -> tuple[Any, Any]:
    """Tokens of the prompts and of the answers, of the rows that have a prompt."""
    import numpy as np

    starts, lengths = np.asarray(rows["answer_start"][:]), np.asarray(rows["length"][:])
    return starts[starts > 0], (lengths - starts)[starts > 0]


def keys_and_values(context: RunContext, facts: ModelFacts, narrow: int) -> int:
    """The most bytes that a batch of answers keeps while it is written, if there is practice."""
    if (spec := context.recipe.distillation.practice) is None:
        return 0
    from finetune.training.decoding import KEY_VALUE_BYTES, LARGEST_BATCH

    tokens = min(spec.refresh, LARGEST_BATCH) * (int(context.data.report.length.get("max", 0)) + spec.tokens)
    return min(KEY_VALUE_BYTES, 2 * facts.layers * facts.hidden * narrow * tokens)
