"""What is expected of rows that are still to be written: how many tokens they have, and how long writing them takes.

making(context, rows=300, tokens=45_000, served=90_000).seconds
expected_data(context, "rows that ...", 300, Lengths()).train        # rows of about the right length, for the plan
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.sources.base import Making
from finetune.sources.teacher import teacher_of

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.run_context import RunContext

KEPT = 0.55  # of the prompts that a teacher writes become rows, with the starter
TEMPLATE = 10  # tokens that a chat template writes around both
GENERATED_PER_SECOND = 80e9  # parameters read a second while many texts are written at once on a CPU
SERVED_PER_SECOND = 200.0  # tokens, of a server that nothing is known of
GPU = 20.0  # times faster


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and its answer, on average."""

    prompt: int = 30
    answer: int = 120


def making(context: RunContext, rows: int, tokens: float, served: int) -> Making:
    """Rows, teacher and time, by the model's size: of `tokens` that are written; a server counts `served` with those that it reads."""
    teacher = teacher_of(context)
    if teacher.parameters is None:
        return Making(rows, teacher.name, tokens / SERVED_PER_SECOND, served, teacher.budget)
    speed = GENERATED_PER_SECOND * (1 if context.machine.device == "cpu" else GPU)
    return Making(rows, teacher.name, tokens * teacher.parameters / speed)


def expected_data(context: RunContext, source: str, rows: int, lengths: Lengths) -> PreparedData:
    """Rows without text, as many as are wanted and about as long as rows usually are; their report says that they are expected."""
    from datasets import Dataset

    from finetune.data.prepare import PreparedData
    from finetune.data.report import DataReport
    from finetune.data.split import rows_to_decide

    spec = context.recipe.dataset
    held_out = max(1, round(rows * spec.held_out))
    between = context.decides_between
    deciding = rows_to_decide(rows - held_out, held_out, between) if between else 0
    learned_from = rows - held_out - deciding
    length = min(spec.max_length, lengths.prompt + lengths.answer + TEMPLATE)
    learned = lengths.answer if not context.distils or context.recipe.distillation.supervise == "answers" else length
    report = DataReport(
        source=source,
        pinned_source=None,
        format="prompt_completion",
        columns=["prompt", "completion"],
        ignored_columns=[],
        files=[],
        read=0,
        blank=0,
        skipped=0,
        skipped_rows=[],
        restricted=True,
        samples=rows,
        template="chat",
        train=learned_from,
        held_out=held_out,
        deciding=deciding,
        deciding_tokens=deciding * length,
        deciding_supervised=deciding * min(learned, length),
        train_sequences=learned_from,
        train_tokens=learned_from * length,
        supervised_tokens=learned_from * min(learned, length),
        supervised_share=round(min(learned, length) / length, 4),
        notes=["The rows are still to be written: their number is certain, their length is a guess."],
    )
    report.measure_lengths(np.full(learned_from, length), spec.max_length)
    columns = {"input_ids": [0], "length": length, "answer_start": min(lengths.prompt + TEMPLATE, length - 1)}
    train = Dataset.from_dict({name: [value] * report.train for name, value in columns.items()})

    def to_measure(number: int) -> Dataset:
        return Dataset.from_dict({"input_ids": [[0]] * number, "prompt_ids": [[0]] * number, "length": [length] * number})

    return PreparedData(train, to_measure(held_out), report, "expected", to_measure(deciding) if deciding else None)
