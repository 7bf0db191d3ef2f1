"""Which teacher teaches which row, where several teachers have rows of their own.

teacher_rows(recipe, data.train)        # [0, 0, 1, 0, ...], or None where all teach every row
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.errors import DatasetError
from finetune.recipe import Recipe


def teacher_rows(recipe: Recipe, rows: Any, *, held_out: bool = False) -> list[int] | None:
    """The number of each row's teacher, by its `route`; None where all teach every row.

    Raises DatasetError for rows without a teacher, and unless the rows are `held_out` for teachers without a row.
    """
    if recipe.teachers is None or recipe.routed_by is None:
        return None
    known = {each.rows.equals: number for number, each in enumerate(recipe.teachers) if each.rows}
    routes = list(rows["route"][:])
    found = Counter(routes)
    strange = {route: count for route, count in found.items() if route not in known}
    if strange:
        some = max(strange, key=lambda route: strange[route])
        raise DatasetError(
            f"{sum(strange.values()):,} of {len(routes):,} rows have no teacher: "
            f"{recipe.routed_by} is {some or 'empty'} in {strange[some]:,}.",
            hint="Give these rows a teacher, or leave them out of the data.",
        )
    for value, number in known.items():
        if not found[value] and not held_out:
            raise DatasetError(
                f"{recipe.teachers[number].source} has no row to teach: {recipe.routed_by} is {value} in no training row.",
                hint=f"Values found: {', '.join(map(str, found))}.",
            )
    return [known[route] for route in routes]


def rows_of(number: int, rows: Any, numbers: list[int] | None) -> Any:
    """The rows of one teacher, by what `teacher_rows` found; all of them where they are not divided."""
    return rows if numbers is None else rows.select(places_of(number, numbers), keep_in_memory=True)


def places_of(number: int, numbers: list[int]) -> list[int]:
    """The places of a teacher in `numbers`."""
    return [place for place, of in enumerate(numbers) if of == number]
