"""Several runs in one table on a screen.

console.print(runs_table(table_of(runs), console.width))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from finetune.benchmark.names import IN_SHORT, NAMES, number, share
from finetune.formatting import count, strip_control_chars
from finetune.run.several import RunRow
from finetune.screen.tables import block, in_words
from finetune.screen.wording import duration, setting

NARROW = 60  # columns; below them each run has lines of its own


def runs_table(rows: Sequence[RunRow], width: int) -> RenderableType:
    """What differs first, then a line for each run, then how each compares with the first."""
    parts: list[RenderableType] = [Text("\n").join([_name(row) for row in rows]), Text("")]
    columns = [name for name in _cells(rows[0]) if any(_cells(row)[name] for row in rows)]
    if width >= NARROW:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in columns:
            table.add_column(name, justify="right", overflow="fold")
        for row in rows:
            table.add_row(row.letter, *(_cells(row)[name] or "-" for name in columns))
        parts.append(table)
    else:
        for row in rows:
            facts = ", ".join(f"{name} {_cells(row)[name]}" for name in columns if _cells(row)[name])
            parts.append(Text(f"{row.letter}  {facts}"))
    return block(*parts, Text(""), *_sentences(rows))


def _name(row: RunRow) -> Text:
    differs = ", ".join(f"{key} {_value(value)}" for key, value in row.differs.items())
    return Text(strip_control_chars(f"{row.letter}  {row.output_dir}{f': {differs}' if differs else ''}"))


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else setting(value)


def _cells(row: RunRow) -> dict[str, str]:
    """By the heading of the column; empty where nothing is known."""
    scores = {NAMES[metric]: number(metric, row.scores[metric]) if metric in row.scores else "" for metric in IN_SHORT}
    return {
        **scores,
        "Kept": share(row.kept) if row.kept is not None else "",
        "Student": row.student or "",
        "Parameters": count(row.parameters) if row.parameters else "",
        "Tokens/s": f"{row.tokens_per_second:,.0f}{'' if row.alike else '*'}" if row.tokens_per_second else "",
        "Trained": duration(row.train_seconds) if row.train_seconds else "",
    }


def _sentences(rows: Sequence[RunRow]) -> Iterator[Text]:
    first, *others = rows
    for row in others:
        if row.why_not:
            yield Text(f"{row.letter}: measured on other rows than {first.letter}, so there is no verdict.", style="warning")
            continue
        if row.against_first:
            yield Text.assemble(f"{row.letter} against {first.letter}: ", in_words(row.against_first))
    if sum(bool(row.against_first) and not row.why_not for row in others) > 1:
        yield Text(f"Each is compared with {first.letter} alone. One such verdict in 20 is chance.", style="quiet")
    if not all(row.alike for row in rows):
        yield Text(f"*: measured on another machine, with other threads or another dtype than {first.letter}.", style="quiet")
