"""Small tables that several screens share.

console.print(fact_list([("memory", "8.0 GB free of 16.0 GB", True)]))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune.benchmark.names import LOWER_IS_BETTER, NAMES, by_verdict
from finetune.formatting import strip_control_chars
from finetune.screen.console import VERDICTS

WORDS = ("Elsewhere",)  # names of what is neither a path nor a command
NARROW = 70  # columns; below them there is less in a row


def pairs(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names on the left, facts on the right; text is shown character by character, whatever it contains."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="quiet", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in rows:
        table.add_row(Text(name), Text(strip_control_chars(fact)) if isinstance(fact, str) else fact)
    return table


def to_copy(rows: Iterable[tuple[str, str]], width: int) -> Text:
    """Names and paths or commands, which are never broken into lines by us, but words are; to be printed with soft_wrap."""
    name_in, between, indent = ("{:<9}", "  ", " " * 13) if width >= NARROW else ("{}", "\n  ", "  ")
    told = [(name, f"\n{indent}".join(wrap(fact, width - len(indent))) if name in WORDS else fact) for name, fact in rows]
    return Text("\n").join(Text.assemble("  ", (name_in.format(name), "quiet"), between, fact) for name, fact in told)


def fact_list(facts: Iterable[tuple[str, str, bool]]) -> RenderableType:
    """(name, value, fine): what is not fine stands out."""
    return block(pairs((name, Text(value, style="" if fine else "warning")) for name, value, fine in facts))


def block(*parts: RenderableType, above: int = 0) -> RenderableType:
    """Indented by two, with room above."""
    return Padding(Group(*parts), (above, 0, 0, 2), expand=False)


def score_table(sides: Sequence[str], rows: Mapping[str, Sequence[Text]], *, change: str | None, wide: bool) -> Table:
    """A row per metric: its name, a score for each side, and, under the heading `change`, what is different."""
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=wide)  # words are wrapped where there is no room, so that no number is cut
    for side in sides:
        table.add_column(side, justify="right", no_wrap=True)
    if change is not None:
        table.add_column(change, no_wrap=wide)
    for metric, cells in rows.items():
        table.add_row(NAMES.get(metric, metric), *cells)
    return table


def table_width(rows: Mapping[str, Sequence[Text]]) -> int:
    """Columns of the screen that a wide `score_table` of these rows takes."""
    names = max(len(NAMES.get(metric, metric)) for metric in rows)
    widest = [max(int(cell.cell_len) for cell in column) for column in zip(*rows.values(), strict=True)]
    return names + sum(2 + width for width in widest)


def legend(interval: str, metrics: Iterable[str]) -> Text:
    """How to read a score table: `interval` says what its brackets are."""
    lower = " and ".join(NAMES[metric] for metric in LOWER_IS_BETTER if metric in metrics)
    return Text(f"{interval} {lower}: lower is better.".lstrip() if lower else interval, style="quiet")


def in_words(verdicts: Mapping[str, str]) -> Text:
    """ "better on ROUGE-L, Perplexity; no evidence on ROUGE-1" of {metric: verdict}, in colours."""
    found = by_verdict(verdicts).items()
    return Text("; ").join([Text.assemble((words, VERDICTS.get(words, "quiet")), f" on {', '.join(names)}") for words, names in found])


def verdict(change: Mapping[str, Any]) -> Text:
    """Better, worse or no evidence, in its colour."""
    return Text(change["verdict"], style=VERDICTS.get(change["verdict"], "quiet"))
