"""Which rows of a source share answers or prompts, so that no held-out row is known from training.

known = RowHashes.of(rows)
known.answers.of(train)               # the hashes of every answer that training learns, in order
known.conversations()                 # a number for each row; rows that are turns of each other have the same
known.together(held_out)              # a number for each of some rows; those that ask the same, or go on with another, have the same
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.data.reading import Rows


@dataclass
class HashLists:
    """A list of hashes for each row: those of row i are values[starts[i] : starts[i + 1]]."""

    values: np.ndarray
    starts: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The hashes of some rows, ascending."""
        chosen = np.zeros(len(self.starts) - 1, bool)
        chosen[rows] = True
        return np.sort(self.values[chosen[self.rows()]])

    def any(self, rows: np.ndarray, ordered: np.ndarray) -> np.ndarray:
        """For each of some rows, whether one of its hashes is among those given."""
        found = np.zeros(len(self.starts) - 1, bool)
        found[self.rows()[among(self.values, ordered)]] = True
        return np.asarray(found[rows])

    def rows(self) -> np.ndarray:
        """The row of each hash."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass
class RowHashes:
    """The hashes of rows: of the whole row, of its prompt, and of all its answers and what precedes each."""

    rows: np.ndarray
    prompts: np.ndarray
    answers: HashLists
    asked: HashLists

    @classmethod
    def of(cls, rows: Rows) -> RowHashes:
        """Copied out, because a view would keep the text next to it in memory."""
        whole, prompts = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        counts, earlier = np.ones(len(rows), np.int64), {"answer_hashes": [np.empty(0, np.int64)], "asked_hashes": [np.empty(0, np.int64)]}
        first = 0
        for part in rows.batches():
            last = first + part.num_rows
            whole[first:last], prompts[first:last] = part.column("row_hash"), part.column("prompt_hash")
            for name, parts in earlier.items():
                parts.append(np.array(part.column(name).flatten(), np.int64))
            counts[first:last] += np.array(part.column("answer_hashes").value_lengths(), np.int64)
            first = last
        starts = np.concatenate([[0], np.cumsum(counts)])
        answers, asked = (
            _with_last(np.concatenate(earlier[name]), ends, starts) for name, ends in (("answer_hashes", whole), ("asked_hashes", prompts))
        )
        return cls(whole, prompts, HashLists(answers, starts), HashLists(asked, starts))

    def of_each_other(self, chosen: np.ndarray) -> bool:
        """Whether an earlier answer of some row is an answer of another one."""
        values = self.answers.of(chosen)
        return len(values) > len(chosen) and bool((values[1:] == values[:-1]).any())

    def conversations(self) -> np.ndarray:
        """The number of the conversation of each row: rows with an answer or a prompt in common belong together."""
        values = np.concatenate([self.answers.values, self.prompts])
        return _joined(values, np.concatenate([self.answers.rows(), np.arange(len(self.rows))]), len(self.rows))

    def together(self, chosen: np.ndarray) -> np.ndarray:
        """A number for each of the chosen rows: those with the same prompt, or of which one goes on with another, have the same.

        Unlike in a conversation, rows that only begin alike do not belong together: many begin with a greeting.
        """
        of = self.answers.rows()
        some = np.isin(of, chosen) & np.isin(self.answers.values, self.rows[chosen])
        values = np.concatenate([self.answers.values[some], self.prompts[chosen]])
        numbers = _joined(values, np.concatenate([of[some], chosen]), len(self.rows))
        return np.asarray(numbers[chosen])


def _joined(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """A number for each of `count` rows: those that a value occurs in have the same; `places` are the rows of the values."""
    order = np.argsort(values, kind="stable")
    same = values[order][1:] == values[order][:-1]
    group = list(range(count))

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = row = group[group[row]]
        return row

    for one, other in zip(places[order][:-1][same].tolist(), places[order][1:][same].tolist(), strict=True):
        first, second = root(one), root(other)
        group[max(first, second)] = min(first, second)
    return np.array([root(row) for row in range(count)], np.int64)


def among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which values occur in an ascending array that is not empty."""
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[places] == values)


def _with_last(earlier: np.ndarray, ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The earlier hashes of each row with its last one after them."""
    values = np.empty(starts[-1], np.int64)
    is_last = np.zeros(starts[-1], bool)
    is_last[starts[1:] - 1] = True
    values[is_last], values[~is_last] = ends, earlier
    return values
