"""Scores of several teachers whose rows are different: each on its own rows, and all of them as one teacher of every row.

one = routed([of_docs, of_maths], [0, 1, 1, 0])     # row 0 as the first answered it, rows 1 and 2 as the second did
of_docs = part(of_docs, [0, 3])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from finetune.benchmark.intervals import estimate
from finetune.benchmark.names import is_task
from finetune.benchmark.perplexity import AnswerLosses
from finetune.benchmark.scoring import Scores
from finetune.benchmark.teacher_agreement import TeacherStates


def part(scores: Scores, rows: Sequence[int]) -> Scores:
    """The scores on some of the rows; a metric without values for rows is left out."""
    return _chosen([scores], [(0, row) for row in rows])


def routed(each: Sequence[Scores], of_rows: Sequence[int]) -> Scores:
    """The scores of a teacher that is, in each row, the one whose number `of_rows` has; its parameters are those of the first."""
    return _chosen(each, [(number, row) for row, number in enumerate(of_rows)])


def _chosen(each: Sequence[Scores], places: Sequence[tuple[int, int]]) -> Scores:
    first = each[0]

    def pick(of: Callable[[Scores], Any]) -> list[Any]:
        columns = [of(scores) for scores in each]
        return [columns[number][row] for number, row in places] if all(columns) else []

    losses = None
    if all(scores.losses for scores in each):
        losses = AnswerLosses(**{name: pick(partial(_of_losses, name)) for name in asdict(AnswerLosses())})
    states = None
    if all(scores.states for scores in each):
        heads = [scores.states.head for scores in each if scores.states]
        rows = pick(lambda scores: scores.states.rows if scores.states else [])
        states = TeacherStates(heads[0], rows, [heads[number] for number, _ in places])
    found = replace(
        first,
        prompts=pick(lambda scores: scores.prompts),
        references=pick(lambda scores: scores.references),
        texts=pick(lambda scores: scores.texts),
        ended=pick(lambda scores: scores.ended),
        endless=None,
        per_row={name: pick(partial(_of_rows, name)) for name in first.per_row if not is_task(name)},
        losses=losses,
        groups=pick(lambda scores: scores.groups),
        states=states,
        values={},
        tasks=[],
    )
    values = {name: estimate(statistic).value for name, statistic in found.statistics().items()} if places else {}
    return replace(found, values={name: value for name, value in values.items() if name in first.values})


def _of_losses(name: str, scores: Scores) -> Any:
    return getattr(scores.losses, name)


def _of_rows(name: str, scores: Scores) -> list[float]:
    return scores.per_row[name]
