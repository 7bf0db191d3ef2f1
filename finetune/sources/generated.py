"""Rows that a teacher writes: prompts and their answers, filtered.

    dataset: {source: generated, samples: 500, topic: gardening, examples: a_dozen.jsonl}

When fine-tuning, `teacher` names the model that writes: a model learns nothing from its own words.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from finetune.sources.base import Making
from finetune.sources.by_teacher import ByTeacher, thrown_away
from finetune.sources.examples import read_examples
from finetune.sources.expected import KEPT, Lengths, expected_data, making
from finetune.sources.filters import Filters
from finetune.sources.teacher import teacher_of
from finetune.sources.written import Batch, Row, Written

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.run_context import RunContext
    from finetune.sources.author import Author
    from finetune.sources.prompt_builder import Turns

NO_CHOICE = "If all prompts are alike the server does not sample (`transformers serve` does with do_sample in generation_config.json)"
VERSION = 2  # part of the key: raise it when the same teacher would write other rows


class Generated(ByTeacher):
    writes, prefix = "writes the rows", "rows"

    def check(self, context: RunContext) -> None:
        teacher_of(context)
        _examples(context)
        super().check(context)

    def key(self, context: RunContext) -> list[str]:
        spec = context.recipe.dataset
        parts = [str(VERSION), teacher_of(context).writes_with, str(context.recipe.seed), str(spec.max_length), str(spec.topic)]
        return [*parts, json.dumps(_examples(context), ensure_ascii=False)]

    def wanted(self, context: RunContext) -> int:
        return int(context.recipe.dataset.samples or 0)

    def check_teacher(self, context: RunContext) -> None:
        teacher_of(context).check()

    def batches(self, context: RunContext, written: Written, load: Callable[[], Any]) -> Callable[[int], Batch]:
        examples = _examples(context)
        author, filters = teacher_of(context).author(examples, load), Filters([turns[-2]["content"] for turns in examples])
        for prompt in written.asked:
            filters.take(prompt)
        return lambda number: _batch(author, filters, number)

    def expects(self, context: RunContext) -> tuple[Making, PreparedData]:
        rows, lengths = self.wanted(context), Lengths()
        tokens = rows / KEPT * (lengths.prompt + lengths.answer)
        source = f"rows that {teacher_of(context).name} will write"
        return making(context, rows, tokens, round(2 * tokens)), expected_data(context, source, rows, lengths)

    def better(self, context: RunContext) -> str:
        spec = context.recipe.dataset
        larger = "Say what the rows are about: --set dataset.topic=TOPIC, or choose a larger teacher"
        better = "Choose a larger teacher" if spec.topic or spec.examples else larger
        if context.recipe.teacher and context.recipe.teacher.server:
            better = f"{NO_CHOICE}, or {better[0].lower()}{better[1:]}"
        return f"{better}; longer rows are allowed with --set dataset.max_length=1024."

    def subject(self, context: RunContext) -> str:
        return f"{teacher_of(context).name} wrote"

    def sentence(self, facts: Mapping[str, Any]) -> str:
        thrown = thrown_away(facts)
        return f"{facts['by']} wrote {facts['tried']:,} prompts, and {facts['kept']:,} became rows. Discarded: {thrown}."


def _examples(context: RunContext) -> list[Turns]:
    name = context.recipe.dataset.examples
    return read_examples(name, context.runtime, context.reporter) if name else []


def _batch(author: Author, filters: Filters, number: int) -> Batch:
    """The next prompts, and answers to those that are kept."""
    prompts = author.prompts(number)
    reasons = [filters.prompt(text) for text in prompts]
    asked = [text for text, reason in zip(prompts, reasons, strict=True) if reason is None and text is not None]
    answers = author.answers(number, asked) if asked else []
    judged = [filters.answer(text) for text in answers]
    rows: list[Row] = [
        {"prompt": prompt, "completion": answer}
        for prompt, answer, reason in zip(asked, answers, judged, strict=True)
        if reason is None and answer is not None
    ]
    return Batch(len(prompts), asked, rows, dict(Counter(reason for reason in (*reasons, *judged) if reason)))
