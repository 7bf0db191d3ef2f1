"""Rows that are tokens already, as other programs store them before training; they are used as they are.

{"input_ids": [10, 11, 12, 13], "attention_mask": [1, 1, 1, 1], "labels": [-100, -100, 12, 13]}

Padding (where the attention mask is 0) is left out. Without labels the tokens are learned that all masks of what is learned agree on, and
every token where there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.formats.cells import Message, Record, find_column, is_missing
from finetune.data.json_values import parsed, plain
from finetune.data.rows import RowProblem
from finetune.data.tokens.labels import LEARNED, NO_LOSS, where_all


class Tokenized:
    name = "tokenized"
    title = "tokenised rows"
    summary = "input_ids, and labels if there are any; used as they are"
    order = 7

    def __init__(self, ids: str, labels: str | None, learned: Sequence[str], attention: str | None) -> None:
        self.ids, self.labels, self.learned, self.attention = ids, labels, learned, attention
        self.columns = tuple(column for column in (ids, labels, *learned, attention) if column is not None)
        covered = "" if labels or learned else " Every token is learned, because there are no labels."
        self.note = f"Rows are tokenised already: the tokens of column {ids} are used as they are, without a chat template.{covered}"

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Tokenized | None:
        ids = find_column(columns, "input_ids")
        if ids is None or 2 * sum(isinstance(parsed(row.get(ids)), list) for row in sample) < max(1, len(sample)):
            return None
        labels = find_column(columns, "labels", "label_ids")
        learned = [] if labels else [column for name in LEARNED if (column := find_column(columns, name))]
        return cls(ids, labels, learned, find_column(columns, "attention_mask"))

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        """The ids as words: what the rows are compared and shown by where there is no tokenizer."""
        return self.to_record(row)["messages"]

    def to_record(self, row: dict[str, Any]) -> Record:
        """Ids and labels of the tokens that are no padding. Raises RowProblem for lists that do not fit together."""
        ids = self._list(row, self.ids)
        if not ids:
            raise RowProblem(f"column {self.ids} has no tokens")
        labels = self._labels(row, ids)
        start, end = self._ends(row, len(ids))
        ids, labels = ids[start:end], labels[start:end]
        if all(label == NO_LOSS for label in labels):
            raise RowProblem("no token has a label")
        words = list(map(str, ids))
        if NO_LOSS not in labels[1:]:  # whatever the first one says: nothing comes before it to predict it from
            messages: list[Message] = [{"role": "text", "content": " ".join(words)}]
        else:
            first = answer_of(labels)
            asked, answered = " ".join(words[:first]), " ".join(words[first:])
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return {"messages": messages, "input_ids": ids, "labels": labels}

    def _labels(self, row: dict[str, Any], ids: list[int]) -> list[int]:
        if self.labels is None:
            return where_all([self._of_tokens(row, column, len(ids)) for column in self.learned], ids)
        labels = self._of_tokens(row, self.labels, len(ids))
        wrong = next((at for at, label in enumerate(labels) if label not in (NO_LOSS, ids[at])), None)
        if wrong is None:
            return labels
        following = [*ids[1:], NO_LOSS]
        if all(label in (NO_LOSS, after) for label, after in zip(labels, following, strict=True)):
            raise RowProblem(f"column {self.labels} is shifted by one token already; each label must be at the position of its own token")
        what = f"column {self.labels} has {labels[wrong]} at place {wrong}"
        raise RowProblem(f"{what}, which is neither {NO_LOSS} nor the token there, {ids[wrong]}")

    def _ends(self, row: dict[str, Any], length: int) -> tuple[int, int]:
        """Where the tokens begin and end that are no padding."""
        if self.attention is None or is_missing(row.get(self.attention)):
            return 0, length
        mask = self._of_tokens(row, self.attention, length)
        seen = [place for place, shown in enumerate(mask) if shown]
        if not seen:
            raise RowProblem(f"column {self.attention} hides every token")
        if len(seen) != seen[-1] - seen[0] + 1:
            raise RowProblem(f"column {self.attention} hides tokens between others")
        return seen[0], seen[-1] + 1

    def _of_tokens(self, row: dict[str, Any], column: str, length: int) -> list[int]:
        """A column with a number for each token."""
        found = self._list(row, column)
        if len(found) != length:
            raise RowProblem(f"column {self.ids} has {length} tokens, but column {column} has {len(found)}")
        return found

    def _list(self, row: dict[str, Any], column: str) -> list[int]:
        found = _numbers(row.get(column))
        if found is None:
            raise RowProblem(f"column {column} has no list of whole numbers")
        return found


def answer_of(labels: Sequence[int]) -> int:
    """Where the last stretch of learned tokens begins."""
    last = max(place for place, label in enumerate(labels) if label != NO_LOSS)
    return next((place + 1 for place in range(last, -1, -1) if labels[place] == NO_LOSS), 0)


def _numbers(value: Any) -> list[int] | None:
    """A list of whole numbers; None for anything else. A row of a batch of one, [[1, 2]], is that row."""
    value = plain(parsed(value))
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or not all(isinstance(number, int) and abs(number) < 2**31 for number in value):
        return None
    return [int(number) for number in value]
