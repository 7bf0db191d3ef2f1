"""Which rows are used, and which of them are kept from training: decided by the seed alone, before anything is trained.

division = divide(rows, spec, seed)     # division.train, division.held_out: sorted row numbers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.data.sources import Rows
from finetune.errors import EmptyDataset
from finetune.recipe import DatasetSpec

BATCH = 1000


@dataclass
class Division:
    """Row numbers into `rows` (train) and into `held_out_rows`; the counts are for the report."""

    train: np.ndarray
    held_out: np.ndarray
    held_out_rows: Rows
    duplicates: int
    held_out_dropped: int


def divide(rows: Rows, evaluation: Rows | None, spec: DatasetSpec, seed: int) -> Division:
    """Train and held-out rows that share neither a row nor a prompt.

    `samples` limits both together. Rows held out whose text or whole prompt also occurs in training are dropped.
    Raises EmptyDataset if one side has no row left.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    limit = len(order) if spec.samples is None else min(spec.samples, len(order))
    count = max(1, round(limit * spec.held_out))
    if evaluation is None:
        if limit < 2:
            raise EmptyDataset(f"{rows.facts.origin} has one usable row.", hint="Two are the least: one to train on, one to hold out.")
        count = min(count, limit - 1)
        held_out, train = order[:count], order[count:limit]
    else:
        train, held_out = order[:limit], random.permutation(len(evaluation))[:count]
    train, held_out = np.sort(train), np.sort(held_out)
    held_out_rows = evaluation or rows

    row_hashes, prompt_hashes = _hashes(rows)
    new_rows, new_prompts = _hashes(evaluation) if evaluation else (row_hashes, prompt_hashes)
    seen, asked = np.sort(row_hashes[train]), np.sort(prompt_hashes[train])
    known = _among(new_rows[held_out], seen) | _among(new_prompts[held_out], asked)
    fresh = ~known
    if not fresh.any():
        raise EmptyDataset(
            f"Every row held out from {rows.facts.origin} also occurs among those to train on.",
            hint="Remove duplicate rows, or hold out more: --set dataset.held_out=0.2",
        )
    duplicates = int(np.count_nonzero(seen[1:] == seen[:-1]))
    return Division(train, held_out[fresh], held_out_rows, duplicates, int((~fresh).sum()))


def chosen_records(rows: Rows, chosen: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    """The chosen rows (sorted numbers) as plain records, about a thousand at a time."""
    records: list[dict[str, Any]] = []
    first = 0
    for part in rows.batches():
        start, end = np.searchsorted(chosen, (first, first + part.num_rows))
        if start < end:
            records += part.take(chosen[start:end] - first).to_pylist()
        first += part.num_rows
        if len(records) >= BATCH:
            yield records
            records = []
    if records:
        yield records


def _hashes(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of whole rows and of prompts; copied out, because a view would keep the text beside it in memory."""
    whole, prompts = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    first = 0
    for part in rows.batches():
        last = first + part.num_rows
        whole[first:last], prompts[first:last] = part.column("row_hash"), part.column("prompt_hash")
        first = last
    return whole, prompts


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which values occur in an ascending array that is not empty."""
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[places] == values)
