"""What a record means: which columns are the question and which the answer. One small class a format, chosen by column names.

detect(["question", "answer"], sample, None)  ->  QuestionAnswer(question="question", answer="answer")

Every format turns a record into turns, `[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]`; plain text
becomes one turn with the role "text". What a format has, also for those that other packages register:

    name: str                                   as in the registry
    title, summary: str                         what people read: "question and answer", and the columns it looks for
    order: int                                  formats are tried from the lowest to the highest, the built-in ones have 10, 20 ... 60, and
                                                the first that matches wins: 5 comes before all of them, 55 before plain text, and one
                                                without an order after it
    columns: tuple[str, ...]                    the columns it reads; the others are reported as ignored
    matches(columns, sample) -> Format | None   a format ready to read rows with these columns
    to_messages(row) -> list[Message]           raises RowProblem for a record that cannot be used
    note: str                                   optional: one sentence a person should know before training
    left_out(row) -> iterator of (name, value)  optional: text inside its columns that is in no turn, for the report
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from finetune import registry
from finetune.data.formats.cells import Message
from finetune.errors import UnknownFormat
from finetune.settings import ColumnsSpec
from finetune.shell import quoted

SHOWN_COLUMNS = 12
LAST = 100


class Format(Protocol):
    name: str
    title: str
    summary: str
    order: int
    columns: tuple[str, ...]

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Format | None: ...

    def to_messages(self, row: dict[str, Any]) -> list[Message]: ...


def detect(columns: Sequence[str], sample: Sequence[dict[str, Any]], chosen: ColumnsSpec | None, where: str) -> Format:
    """The format of these records; raises UnknownFormat naming the columns that were seen in `where`."""
    if chosen is not None:
        return _as_chosen(columns, chosen, where)
    known = [registry.load("formats", name) for name in registry.names("formats")]
    for kind in sorted(known, key=lambda kind: getattr(kind, "order", LAST)):
        found: Format | None = kind.matches(columns, sample)
        if found is not None:
            return found
    example, other = [*columns, "NAME", "NAME"][:2]
    raise UnknownFormat(
        f"{where} has {_listed(columns)}, and none of them is a known name for prompt, answer, text or messages.",
        hint=f"Name them: --set {_set('prompt', example)} --set {_set('completion', other)} (or --set {_set('text', example)}).",
    )


def _set(role: str, column: str) -> str:
    return quoted(f"dataset.columns.{role}={column}")


def _as_chosen(columns: Sequence[str], chosen: ColumnsSpec, where: str) -> Format:
    wanted = {role: column for role, column in chosen if column is not None}
    for role, column in wanted.items():
        if column not in columns:
            raise UnknownFormat(
                f"{where} has no column {column!r} for dataset.columns.{role}.{registry.did_you_mean(column, list(columns))}",
                hint=f"It has {_listed(columns)}.",
            )
    made: Format = registry.load("formats", "prompt_completion" if len(wanted) > 1 else next(iter(wanted)))(*wanted.values())
    return made


def _listed(columns: Sequence[str]) -> str:
    if not columns:
        return "no columns"
    more = f" and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
    return f"the column{'s' if len(columns) > 1 else ''} {', '.join(columns[:SHOWN_COLUMNS])}{more}"
