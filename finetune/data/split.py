"""Which rows are used, and which of them are kept from training: decided by the seed alone, before anything is trained.

division = divide(rows, spec, seed)     # division.train, division.held_out: sorted row numbers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from finetune.data.arrow_records import restored
from finetune.data.endings import is_prose
from finetune.data.reading import Rows
from finetune.data.row_overlap import RowHashes, among
from finetune.errors import EmptyDataset
from finetune.recipe import DatasetSpec

BATCH = 1000
# Fewer new rows than this share of those held out, and than this number, are too few for the benchmark.
NEARLY_NONE, FEW = 0.05, 20
FEWEST_GROUPS, NEVER = 8, float("inf")  # rows, prompts or whole conversations that a benchmark can judge by
ENOUGH = 0.5  # the share of the rows to hold out that whole prompts or conversations must make up
MEASURED = 50  # rows of another split, or more by `held_out`: as many as the benchmark answers
DECIDING = {"rounds": 50, "steps": 100}  # most validation rows: after a round every student answers them, at a step they are only read
CUT = {
    "auto": "Text is cut at its paragraphs: put blank lines between them.",
    "line": "Each line of text is a row.",
    "document": "Each file of text is a row: to cut it at its paragraphs, --set dataset.text_as=auto.",
}
NOTES = {
    "conversations": "Most held-out rows would have answers that are also trained on, as turns of longer or shorter rows, so whole "
    "conversations are held out, with all their rows.",
    "answers": "Some earlier answers of held-out rows are also trained on, in other rows: too few conversations begin differently. "
    "Their last answers are not.",
    "prompts": "Most held-out rows would have a prompt that is also trained on, so whole prompts are held out, with all their rows.",
    "rows": "Some held-out rows have prompts that are also trained on: too few prompts are different. No complete row is in both parts.",
}
_Parts = tuple[np.ndarray, np.ndarray, int]  # for training, for the benchmark, and the number dropped from the latter


@dataclass
class Division:
    """Row numbers into `rows` (train) and into `held_out_rows`; the counts are for the report.

    `deciding` are validation rows, a third part: nothing of them is trained on or reported. `groups` has a number for each held-out
    row, the same for rows of one conversation or prompt.
    `by` is empty where rows held out at random are new by row and prompt; else what was kept apart instead, a key of NOTES.
    """

    train: np.ndarray
    held_out: np.ndarray
    held_out_rows: Rows
    duplicates: int
    held_out_dropped: int
    by: str = ""
    not_asked: int = 0
    not_measured: int = 0
    deciding: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, int))


def divide(rows: Rows, evaluation: Rows | None, spec: DatasetSpec, seed: int) -> Division:
    """Train and held-out rows that share no prompt and no answer to the same words, be it the last of a row or an earlier one.

    `samples` limits both together, but not the rows of another split. Held-out rows with such a prompt or answer in training are dropped.
    Where that leaves almost none, or less than half because rows are turns of each other, whole conversations or prompts are held out;
    where there are too few of them, held-out rows are new only by their last answer, or only as complete rows. Raises EmptyDataset if one
    side has no row left.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    limit = len(order) if spec.samples is None else min(spec.samples, len(order))
    count = max(1, round(limit * spec.held_out))
    if evaluation is None:
        if limit < 2:
            raise EmptyDataset(f"{rows.facts.origin} has only one usable row.", hint=_more_rows(rows, spec))
        count = min(count, limit - 1)
        held_out, train = order[:count], order[count:limit]
    else:
        train, held_out = order[:limit], random.permutation(len(evaluation))[: max(count, MEASURED)]
    train, held_out = np.sort(train), np.sort(held_out)
    mine = RowHashes.of(rows)
    theirs = RowHashes.of(evaluation) if evaluation else mine

    nearly_none = max(1, min(NEARLY_NONE * len(held_out), FEW))

    def fresh(train: np.ndarray, held_out: np.ndarray, *, earlier: bool = False, prompts: bool = False) -> _Parts:
        """Without the held-out rows of which training knows the last answer; `earlier` answers and `prompts` count too."""
        answers = mine.answers.of(train)
        known = among(theirs.rows[held_out], answers)
        if prompts:
            known |= among(theirs.prompts[held_out], mine.asked.of(train))
        if earlier:
            known |= theirs.answers.any(held_out, answers)
        return train, held_out[~known], int(known.sum())

    def apart(groups: np.ndarray, *, earlier: bool = False, prompts: bool = False) -> _Parts:
        return fresh(*_apart(order[:limit], groups, count), earlier=earlier, prompts=prompts)

    def ways() -> Iterator[tuple[str, _Parts, float]]:
        """What is kept apart, the resulting parts, and how many held-out rows are enough; the usual way first."""
        strict, last = (fresh(train, held_out, earlier=each, prompts=True) for each in (True, False))
        turns_of_others = last[2] < strict[2]
        if evaluation is None and len(strict[1]) < FEWEST_GROUPS <= count and not turns_of_others:  # a few rows asked again and again
            parts = apart(mine.prompts)
            yield "prompts", parts, ENOUGH * count if len(np.unique(mine.prompts[parts[1]])) >= FEWEST_GROUPS else NEVER
        yield "", strict, ENOUGH * len(held_out) if turns_of_others and evaluation is None else nearly_none
        if turns_of_others or mine.of_each_other(train):
            if evaluation is None:
                parts = apart(mine.conversations(), earlier=True, prompts=True)
                whole, alone = (len(np.unique(of)) for of in (mine.conversations()[parts[1]], mine.together(last[1])))
                yield "conversations", parts, NEVER if whole < FEWEST_GROUPS <= alone else ENOUGH * count
            yield "", strict, nearly_none
            yield "answers", last, nearly_none
        if evaluation is None:
            yield "prompts", apart(mine.prompts), ENOUGH * count
        yield "rows", fresh(train, held_out), nearly_none
        if evaluation is None:
            yield "rows", fresh(*_apart(order[:limit], mine.rows, count, at_least_one=True)), ENOUGH * count

    not_asked, not_measured = len(order) - limit, len(evaluation) - len(held_out) if evaluation else 0
    some = None
    for by, parts, enough in ways():
        if len(parts[1]):
            some = some or (by, parts)
            if len(parts[1]) >= enough:
                some = (by, parts)
                break
    if some is None:
        raise _all_known(rows, spec)
    by, (train, held_out, dropped) = some
    seen = np.sort(mine.rows[train])
    duplicates = int(np.count_nonzero(seen[1:] == seen[:-1]))
    groups = theirs.rows[held_out]  # where prompts are not kept apart the same few are asked again, and rows are what differs
    if by != "rows":
        groups = theirs.conversations()[held_out] if by == "conversations" else theirs.together(held_out)
    return Division(train, held_out, evaluation or rows, duplicates, dropped, by, not_asked, not_measured, groups=groups)


def rows_to_decide(train: int, held_out: int, between: str) -> int:
    """How many of the rows to train on are to be taken to decide between rounds or `steps`."""
    return min(DECIDING[between], held_out, train // 3)


def with_deciding(division: Division, rows: Rows, seed: int, between: str = "rounds") -> Division:
    """The same with a third part, taken from the rows to train on: whole prompts, or whole conversations where these are held out.

    About as many rows as are held out; for `steps` none where there are too few. Raises EmptyDataset where rounds have too few.
    """
    known = RowHashes.of(rows)
    groups = known.conversations() if division.by == "conversations" else known.prompts
    order = np.random.default_rng([seed, 3]).permutation(division.train)
    count = rows_to_decide(len(order), len(division.held_out), between)
    train, deciding = _apart(order, groups, count, at_least_one=True)
    if between == "steps" and not (len(deciding) and len(train)):
        return division
    if not len(deciding) or not len(train):
        raise EmptyDataset(
            f"{rows.facts.origin} has too few different prompts to set some aside for validation.",
            hint="Give more rows, or list the rounds and leave out distillation.until.",
        )
    return replace(division, train=train, deciding=deciding)


def _apart(order: np.ndarray, hashes: np.ndarray, count: int, *, at_least_one: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and up to `count` to hold out: all those of some hashes, which are taken in the order of the rows.

    `at_least_one` holds out the rows of the rarest hash where all are too many, if they are less than half of all.
    """
    _, first, which, sizes = np.unique(hashes[order], return_index=True, return_inverse=True, return_counts=True)
    out, left = np.zeros(len(sizes), bool), count
    for group in np.argsort(first):
        if sizes[group] <= left:
            out[group], left = True, left - sizes[group]
        if not left:
            break
    if at_least_one and not out.any() and 2 * sizes.min() < len(order):
        out[sizes.argmin()] = True
    return np.sort(order[~out[which]]), np.sort(order[out[which]])


def _more_rows(rows: Rows, spec: DatasetSpec) -> str:
    """What gives more rows: how text is cut, and other files may not have been read."""
    left = [note for note in rows.facts.notes if note.startswith("Not read")]
    cut = [CUT[spec.text_as]] if any(map(is_prose, rows.facts.files)) else []
    return " ".join(["Two are needed: one to train on, one to hold out.", *cut, *left])


def _all_known(rows: Rows, spec: DatasetSpec) -> EmptyDataset:
    if spec.eval_split:
        return EmptyDataset(
            f"Every row of the split {spec.eval_split!r} also occurs in the training rows.", hint="Choose another dataset.eval_split."
        )
    return EmptyDataset(
        f"Every row held out from {rows.facts.origin} also occurs in the training rows.",
        hint="Remove duplicate rows, or hold out more: --set dataset.held_out=0.2",
    )


def chosen_records(rows: Rows, chosen: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    """The chosen rows (sorted numbers) as plain records, about a thousand at a time."""
    records: list[dict[str, Any]] = []
    first = 0
    for part in rows.batches():
        start, end = np.searchsorted(chosen, (first, first + part.num_rows))
        if start < end:
            records += map(restored, part.take(chosen[start:end] - first).to_pylist())
        first += part.num_rows
        if len(records) >= BATCH:
            yield records
            records = []
    if records:
        yield records
