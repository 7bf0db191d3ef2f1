"""Number the rows of a distillation: which row of the teacher's cache each is, and which teacher it belongs to.

rows, held_out = numbered([rows, held_out], [cache], None, 1)
rows[3]["row"]          # 3
held_out[0]["row"]      # len(rows): a cache has these rows after those to train on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, count
from typing import Any

import torch

from finetune.data.tokens.labels import OF_TOKENS, learned
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.teachers.model_or_cache import check_routes
from finetune.errors import RecipeError


def numbered(datasets: Sequence[Any], caches: Sequence[TeacherCache], teacher_rows: Sequence[int] | None, teachers: int) -> list[Any]:
    """Each dataset with a `row` column, so that its rows find their cached teacher outputs in any order; routed, with `teacher_number`.

    They are numbered through. A cache of a teacher of its own rows has only these.
    """
    for each in datasets:
        check_looked_up(each, "A cache, or teachers each of their own rows,")
    of, total = None if teacher_rows is None else [int(number) for number in teacher_rows], sum(map(len, datasets))
    if of is not None:
        check_routes(of, teachers, total)
    for number, cache in enumerate(caches):
        rows = total if of is None else of.count(number)
        if rows != cache.rows:
            raise RecipeError(
                f"The teacher cache has {cache.rows} rows, but there are {rows} training rows.", hint="Build the cache again."
            )
    columns: dict[str, list[int]] = {"row": list(range(total))}
    if of is not None:
        counters = [count() for _ in range(teachers)]
        columns = {"row": [next(counters[number]) for number in of], "teacher_number": of}
    starts = accumulate(map(len, datasets), initial=0)
    places = [slice(start, start + len(each)) for each, start in zip(datasets, starts, strict=False)]
    return [_with(each, {name: of_all[place] for name, of_all in columns.items()}) for each, place in zip(datasets, places, strict=True)]


def check_looked_up(dataset: Any, what: str) -> None:
    """Raises RecipeError where training rows are a stream, or missing, and `what` needs to look them up."""
    if not hasattr(dataset, "__len__"):
        found = "there are none" if dataset is None else "these are a stream"
        raise RecipeError(
            f"{what} must look training rows up by number, and {found}.", hint="Pass train_dataset=, a list or a map-style dataset."
        )


def row_left_out() -> RecipeError:
    """For a batch whose collator has dropped what `numbered` has added to its rows."""
    return RecipeError(
        "A batch has no `row`, by which a cache is read and teacher_rows are followed: the data_collator leaves the column out.",
        hint='Leave data_collator out, or have it return batch["row"] = torch.tensor([row["row"] for row in rows]); '
        "teacher_number likewise.",
    )


def _with(dataset: Any, columns: Mapping[str, Sequence[int]]) -> Any:
    if not hasattr(dataset, "add_column"):
        return Numbered(dataset, columns)
    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    return dataset


def first_rows(dataset: Any, tokens: int) -> list[dict[str, Any]]:
    """Rows from the first on until so many tokens are supervised; RecipeError for rows that cannot be looked up."""
    check_looked_up(dataset, "A comparison of models of different widths")
    rows: list[dict[str, Any]] = []
    for number in range(len(dataset)):
        row = dataset[number]
        rows.append({name: row[name] for name in (*OF_TOKENS, "row", "teacher_number") if name in row})
        tokens -= len(learned(row))
        if tokens <= 0:
            break
    return rows


class Numbered(torch.utils.data.Dataset[Any]):
    """Any map-style dataset with more numbers in each example, such as its `row`."""

    def __init__(self, rows: Any, columns: Mapping[str, Sequence[int]]) -> None:
        self.rows, self.columns = rows, columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self.rows[number], **{name: values[number] for name, values in self.columns.items()}}
