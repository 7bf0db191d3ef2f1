"""Columns and texts that say a row must not be learned, whatever its format: undesired answers, pictures and sound.

marks = Marks.find(["prompt", "completion", "label"], sample, chosen)
marks.check({"prompt": "Hi", "completion": "Go away.", "label": False})     # raises NotWanted: column label marks the answer as undesired
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.formats.cells import Message, find_column
from finetune.data.formats.flags import truth
from finetune.data.formats.media import media_field, placeholder
from finetune.data.rows import NotWanted, RowProblem

GOOD = ["label", "labels", "kto_tag", "kto_label", "desirable", "is_desirable", "desired", "is_desired", "accepted", "is_accepted"]
GOOD += ["preferred", "is_preferred", "chosen", "is_chosen", "is_good", "good", "thumbs_up", "upvoted", "correct", "is_correct"]
BAD = ["undesirable", "is_undesirable", "undesired", "is_undesired", "rejected", "is_rejected", "is_bad", "bad", "thumbs_down"]
TO_LEARN = [
    "train",
    "trainable",
    "is_trainable",
    "train_on",
    "do_train",
    "to_train",
    "learn",
    "learnable",
    "weight",
    "loss_weight",
    "train_weight",
]
TO_LEARN += ["sample_weight", "row_weight", "use_for_training", "is_train", "supervised", "loss_mask", "compute_loss"]
WEIGHTS = {"weight", "loss_weight", "train_weight", "sample_weight", "row_weight"}  # of TO_LEARN: any number, and only 0 is not learned
PART = "Weights of rows (column {}) other than 0 and 1 count as 1"
CLASS_WORDS = 5  # at most, of the name of a class
UNDESIRED = "marks the answer as undesired"
BY_PRODIGY = ("_task_hash", "_input_hash")  # which writes them into each row, and its user's judgement into another column
WITHOUT_ANSWERS = ("text", "tokenized", "preference")  # formats in which a label is about something else than an answer
DESIRED = {"desirable": 1.0, "undesirable": 0.0, "desired": 1.0, "undesired": 0.0, "good": 1.0, "bad": 0.0, "chosen": 1.0, "rejected": 0.0}
JUDGED = ("accept", "reject", "ignore")  # by Prodigy
DESIRED |= dict(zip(JUDGED, (1.0, 0.0, 0.0), strict=True))
DESIRED |= {"accepted": 1.0, "preferred": 1.0, "dispreferred": 0.0, "thumbs_up": 1.0, "thumbs_down": 0.0, "correct": 1.0, "incorrect": 0.0}


@dataclass(frozen=True)
class Mark:
    """A column with yes and no; rows for which it does not say what is `wanted` are left out, because it `says` so."""

    column: str
    wanted: bool
    says: str

    @property
    def weighs(self) -> bool:
        return _weighs(self.column)

    def check(self, row: dict[str, Any]) -> None:
        try:
            said = _said(row.get(self.column))
        except ValueError:
            said = math.nan
        if said not in (None, 0.0, 1.0, -1.0) and not (self.weighs and said >= 0):
            raise RowProblem(f"column {self.column} has {str(row[self.column])[:40]!r}, which is neither yes nor no")
        if said is not None and (said > 0) != self.wanted:
            raise NotWanted(f"column {self.column} {self.says}")


@dataclass(frozen=True)
class Marks:
    """`media` is whether columns of pictures and sound are refused."""

    marks: tuple[Mark, ...]
    media: bool

    @classmethod
    def find(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]], kind: str, taken: Sequence[str], *, named: bool) -> Marks:
        """What of the columns beside those `taken` by a format of some kind marks rows; `named` is whether a person named the columns."""
        free = [column for column in columns if column not in taken]
        possible: list[tuple[Sequence[str], bool, str]] = [(TO_LEARN, True, "marks them as not to be learned")]
        if judged := judgement(columns, sample):
            possible.append(((judged,), True, "marks them as rejected or ignored"))
        if kind not in WITHOUT_ANSWERS:
            possible += [(GOOD, True, UNDESIRED), (BAD, False, UNDESIRED)]
        marks = []
        for names, wanted, says in possible:
            column = next((found for name in names if (found := find_column(free, name)) and _is_mark(found, sample)), None)
            if column is not None and not (says == UNDESIRED and any(_is_number_of(column, name, sample) for name in taken)):
                marks.append(Mark(column, wanted, says))
        return cls(tuple(marks), not named)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(mark.column for mark in self.marks)

    def check(self, row: dict[str, Any]) -> None:
        """Raises RowProblem for pictures and sound, and NotWanted for a row that is marked as not wanted."""
        if self.media and (column := media_field(row)):
            raise RowProblem(f"column {column} has images, audio or video; only text can be trained on")
        for mark in self.marks:
            mark.check(row)

    def remarks(self, row: dict[str, Any]) -> Iterator[str]:
        """What a person should know about a row that is wanted."""
        yield from (PART.format(mark.column) for mark in self.marks if mark.weighs and _said(row.get(mark.column)) not in (None, 1.0))


def judgement(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> str | None:
    """The column that says whether somebody accepted, rejected or ignored a row in Prodigy; it is no answer to it."""
    column = find_column(columns, "answer") if find_column(columns, *BY_PRODIGY) else None
    return column if column is not None and all(row.get(column) in (None, "", *JUDGED) for row in sample) else None


def check_text(messages: Sequence[Message]) -> None:
    """Raises RowProblem if a turn has a place for a picture or sound."""
    for turn in messages:
        if found := placeholder(turn["content"], given=turn["role"] != "assistant"):
            raise RowProblem(f"its text has {found}, a place for images, audio or video; only text can be trained on")


def _is_mark(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a column says yes and no, and nothing else; or how much, where it is one of weights."""
    try:
        found = {said for row in sample if (said := _said(row.get(column))) is not None}
    except (ValueError, TypeError):
        return False
    return bool(found) and (found <= {0.0, 1.0} or found <= {-1.0, 1.0} or (_weighs(column) and min(found) >= 0))


def _is_number_of(column: str, other: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a column numbers the classes that another names, and so judges nothing: each of a few short names has its own number."""
    numbers: dict[str, set[str]] = {}
    for row in sample:
        numbers.setdefault(str(row.get(other)), set()).add(str(row.get(column)))
    few = 2 * len(numbers) <= len(sample) and all(len(name.split()) <= CLASS_WORDS for name in numbers)
    return few and all(len(found) == 1 for found in numbers.values()) and len(set.union(*numbers.values())) > 1


def _weighs(column: str) -> bool:
    return column.strip().lower() in WEIGHTS


def _said(value: Any) -> float | None:
    if isinstance(value, str) and (word := value.strip().lower().replace(" ", "_")) in DESIRED:
        return DESIRED[word]
    return truth(value)
