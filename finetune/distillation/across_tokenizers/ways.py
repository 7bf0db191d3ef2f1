"""The ways in which a teacher with another tokenizer is compared: the values of `distillation.across_tokenizers`.

reading = reading_of("spans", student_tokenizer, teacher_tokenizer, vocabulary=49152, limit=2048)
WAYS["spans"](alignment, 49152).measure(rows)       # how much of the text that compares
"""

from __future__ import annotations

from typing import Any

from finetune.distillation.across_tokenizers.alignment import alignment_of
from finetune.distillation.across_tokenizers.projected import Reading
from finetune.distillation.across_tokenizers.spans import SpanReading
from finetune.errors import RecipeError

WAYS: dict[str, type[Reading]] = {"projected": Reading, "spans": SpanReading}


def reading_of(way: str, student: Any, teacher: Any, vocabulary: int, limit: int | None) -> Reading | None:
    """How a student with this tokenizer and head reads a teacher, None where the tokenizers are the same; RecipeError without both."""
    if student is None or teacher is None:
        raise RecipeError("A comparison across tokenizers needs both tokenizers.", hint="Pass processing_class= and teacher_tokenizer=.")
    alignment = alignment_of(student, teacher)
    return None if alignment is None else WAYS[way](alignment, vocabulary, limit)
