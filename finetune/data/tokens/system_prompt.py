"""Rows as a teacher with a system prompt of its own reads them: the prompt first, then the same answers as in the student's rows.

    SystemPrompt(encoder, "Answer as a pirate.").ids(record, sequence)      # the teacher's tokens of the student's `sequence`
    rows = TeacherRows(prepared.train)
    rows[0]         # {"input_ids": the teacher's, "labels": on the same answer tokens, ...}

The teacher's row is the student's with another beginning. From the first place on where both say the same to the end they share their
tokens, and so the labels; what comes before it has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.data.formats.cells import Message
from finetune.data.rows import RowProblem
from finetune.data.tokens.encoder import beginning
from finetune.data.tokens.labels import NO_LOSS

if TYPE_CHECKING:
    from finetune.data.tokens.encoder import Encoder
    from finetune.data.tokens.encoder import Sequence as Tokens

TEACHER_IDS = "teacher_ids"


class SystemPrompt:
    """Encodes rows a second time, after `text`."""

    def __init__(self, encoder: Encoder, text: str) -> None:
        self.encoder, self.text = encoder, text

    def beside(self, record: Mapping[str, Any], sequences: list[Tokens]) -> list[Tokens] | RowProblem:
        """The sequences of a row with the teacher's tokens in them, or why it has none."""
        try:
            for sequence in sequences:
                sequence.teacher_ids = self.ids(record, sequence)
        except RowProblem as problem:
            return problem
        return sequences

    def ids(self, record: Mapping[str, Any], sequence: Tokens) -> list[int]:
        """The tokens of the row after the prompt, cut where `sequence` is; raises RowProblem where the answers cannot be the same."""
        messages = record["messages"]
        if "input_ids" in record or messages[0]["role"] == "text":
            raise RowProblem("a system prompt has no place in plain text, nor in rows that are tokens already")
        whole = self.encoder.whole(messages, record.get("tools"))
        bare, told = whole.ids, self.encoder.whole(with_system(messages, self.text), record.get("tools")).ids
        same = _same_to_the_end(bare, told)
        cut = whole.answer_start - sequence.answer_start
        begins = max(len(bare) - same, cut + beginning(bare, self.encoder.tokenizer)) if cut else len(bare) - same
        kept = bare[begins : cut + len(sequence.ids)]
        if told == bare or any(label != NO_LOSS for label in sequence.labels[: len(sequence.labels) - len(kept)]):
            raise RowProblem("after a system prompt, the chat template writes the row differently, or leaves the prompt out")
        return told[: len(told) - same] + kept


def with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages after a system prompt; one that they have already follows it."""
    first = messages[0]
    if first["role"] == "system":
        return [{"role": "system", "content": f"{text}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def as_teacher_sees(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of tokens with the teacher's in place of the student's; as it is where both see the same."""
    told = row.get(TEACHER_IDS)
    if told is None:
        return row
    more = len(told) - len(row["input_ids"])
    labels = [NO_LOSS] * more + row["labels"] if more > 0 else row["labels"][-more:]
    seen = {**row, "input_ids": told, "labels": labels, "length": len(told)}
    return seen | ({"prompt_ids": told[: len(row["prompt_ids"]) + more]} if "prompt_ids" in row else {})


class TeacherRows(Sequence[Any]):
    """A dataset as its teacher sees it."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return as_teacher_sees(self.rows[number])

    def __iter__(self) -> Iterator[Any]:
        return map(as_teacher_sees, self.rows)


def teacher_rows(rows: Any) -> Any:
    """The rows as the teacher reads them: the same, unless it has a system prompt of its own."""
    return TeacherRows(rows) if is_prompted(rows) else rows


def is_prompted(rows: Any) -> bool:
    """Whether the teacher of a dataset sees other tokens than its student."""
    return TEACHER_IDS in (getattr(rows, "column_names", None) or [])


def _same_to_the_end(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows share at their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
