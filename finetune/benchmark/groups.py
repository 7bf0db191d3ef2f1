"""Groups of held-out rows that are not independent: answers to one prompt, turns of one conversation, blocks of one text.

groups_of([{"group": 7}, {"group": 2}, {"group": 7}])       # [0, 1, 0]; empty where no two rows share a group
sums, sizes = by_group(columns, [0, 1, 0])                  # of rows 0 and 2, and of row 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of each row's group, counted in the order of the rows; empty where no two rows share one, or where that is not known."""
    numbers: dict[Any, int] = {}
    found = [numbers.setdefault(row.get("group", ("row", place)), len(numbers)) for place, row in enumerate(rows)]
    return found if len(numbers) < len(found) else []


def as_numbers(groups: Sequence[int] | None) -> Groups | None:
    return np.asarray(groups, dtype=np.int64) if groups else None


def by_group(columns: Floats, groups: Groups | None) -> tuple[Floats, Floats]:
    """The sums [groups, k] of the rows [rows, k] of each group, and how many rows it has; without groups each row is one."""
    if groups is None:
        return columns, np.ones(len(columns))
    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[which]  # in the order in which they begin: the same rows give the same interval
    sums = np.zeros((len(first), columns.shape[1]))
    np.add.at(sums, place, columns)
    return sums, np.bincount(place).astype(np.float64)
