"""Rows of the data with the teacher's answers: it is asked for text, and what it writes takes the place of the data's answers.

    dataset: {source: prompts.jsonl, answers: teacher}

Every prompt of the data is answered, whether the data have an answer to it or none, until there are `samples` rows. Those that do not
end, say nothing or repeat themselves are thrown away. Sequence-level distillation (Kim and Rush 2016, arXiv 1606.07947).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Origin
from finetune.data.tokens.system_prompt import with_system
from finetune.sources.base import Making
from finetune.sources.by_teacher import ByTeacher, origin_of, thrown_away
from finetune.sources.expected import Lengths, expected_data, making
from finetune.sources.filters import Filters
from finetune.sources.teacher import teacher_of
from finetune.sources.written import Batch, Row, Written

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.data.prompts import Prompts
    from finetune.run_context import RunContext
    from finetune.sources.answerer import Answerer
    from finetune.sources.prompt_builder import Turns

VERSION = 2  # part of the key: raise it when the same teacher would give other answers
BATCH = 16  # prompts at once


class Answered(ByTeacher):
    writes, prefix = "answers the prompts", "answers"

    def key(self, context: RunContext) -> list[str]:
        recipe = context.recipe
        system = recipe.teacher.system if recipe.teacher else None
        parts = [str(VERSION), teacher_of(context).writes_with, str(recipe.seed), str(recipe.dataset.max_length), str(system)]
        return [*parts, context.prompts.rows.fingerprint]

    def wanted(self, context: RunContext) -> int:
        prompts, samples = len(context.prompts), context.recipe.dataset.samples
        return prompts if samples is None else min(samples, prompts)

    def last(self, context: RunContext) -> int | None:
        return len(context.prompts)

    def check_teacher(self, context: RunContext) -> None:
        teacher_of(context).check_answers()

    def batches(self, context: RunContext, written: Written, load: Callable[[], Any]) -> Callable[[int], Batch]:
        answerer = teacher_of(context).answerer(context.recipe.dataset.max_length // 2, load)
        system = context.recipe.teacher.system if context.recipe.teacher else None
        return lambda number: _batch(answerer, context.prompts, system, number)

    def expects(self, context: RunContext) -> tuple[Making, PreparedData]:
        prompt, answer = context.prompts.lengths()
        most, rows = context.recipe.dataset.max_length // 2, self.wanted(context)
        lengths = Lengths(round(min(prompt, most)), round(min(answer or Lengths.answer, most)))
        source = f"{context.prompts.rows.facts.origin}, to be answered by {teacher_of(context).name}"
        made = making(context, rows, rows * lengths.answer, rows * (lengths.prompt + lengths.answer))
        return made, expected_data(context, source, rows, lengths)

    def better(self, context: RunContext) -> str:
        return "Choose a teacher that gives shorter answers, or allow longer ones: --set dataset.max_length=1024"

    def subject(self, context: RunContext) -> str:
        return f"{teacher_of(context).name} was to answer"

    def told(self, context: RunContext) -> dict[str, Any]:
        return super().told(context) | {"prompts": context.prompts.rows.fingerprint}

    def origin(self, context: RunContext, rows: list[Row]) -> Origin:
        facts = context.prompts.rows.facts
        ignored = f"; not read: {', '.join(facts.ignored_columns)}" if facts.ignored_columns else ""
        notes = [f"The prompts are in: {', '.join(facts.columns)}{ignored}. Answers of the data were not learned."]
        name = f"{facts.origin}, answered by {teacher_of(context).name}"
        return origin_of(name, rows, restricted=context.prompts.rows.restricted, pinned=facts.pinned, notes=notes)

    def facts(self, context: RunContext) -> dict[str, Any]:
        return {"answers": True}

    def sentence(self, facts: Mapping[str, Any]) -> str:
        thrown = thrown_away(facts)
        return f"{facts['by']} was given {facts['tried']:,} prompts, and {facts['kept']:,} became rows. Discarded: {thrown}."


def _batch(answerer: Answerer, prompts: Prompts, system: str | None, number: int) -> Batch:
    """The next prompts with the teacher's answers; the system prompt of the teacher is no part of a row."""
    batch = prompts.batch(number, BATCH)
    asked = [prompt.turns for prompt in batch if prompt.problem is None]
    chats = [_told(turns, system) for turns in asked]
    answers = answerer.answers(number, chats) if chats else []
    judge = Filters()
    judged = [judge.answer(text) for text in answers]
    rows = [_row(turns, text) for turns, text, reason in zip(asked, answers, judged, strict=True) if reason is None and text is not None]
    reasons = [*(prompt.problem for prompt in batch), *judged]
    return Batch(len(batch), [], rows, dict(Counter(reason for reason in reasons if reason)))


def _told(turns: Turns, system: str | None) -> Turns:
    """A prompt as the teacher sees it."""
    if not system:
        return turns
    return [{"role": turn["role"], "content": turn["content"]} for turn in with_system([*turns], system)]  # type: ignore[list-item]


def _row(turns: Turns, answer: str) -> Row:
    """A conversation of which only the teacher's answer is learned."""
    earlier = [{**turn, "learn": False} if turn["role"] == "assistant" else turn for turn in turns]
    return {"messages": [*earlier, {"role": "assistant", "content": answer}]}
