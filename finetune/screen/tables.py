"""Small tables that several screens share.

console.print(fact_list([("memory", "8.0 GB free of 16.0 GB", True)]))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from finetune.benchmark.names import LOWER_IS_BETTER, NAMES, by_verdict
from finetune.formatting import in_lines, strip_control_chars
from finetune.screen.console import VERDICTS

WORDS = ("Elsewhere",)  # names of what is neither a path nor a command
NARROW = 70  # columns; below them there is less in a row
NARROWEST_FACT = 16


@dataclass(frozen=True)
class Pairs:
    """Texts side by side, as in a table of two columns, but nothing in the second is cut off or broken inside a word.

    Where it would be too narrow for words, each name has a line of its own.
    """

    rows: Sequence[tuple[Text, Text]]
    gap: int = 2

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = max((name.cell_len for name, _ in self.rows), default=0) + self.gap
        is_narrow = options.max_width - left < NARROWEST_FACT
        left = self.gap if is_narrow else left
        for name, fact in self.rows:
            if is_narrow and name:
                yield name
            for number, line in enumerate(console.render_lines(fact, options.update_width(max(1, options.max_width - left)), pad=False)):
                begins = name if number == 0 and not is_narrow else Text()
                yield from begins.render(console)
                yield Segment(" " * (left - begins.cell_len))
                yield from line
                yield Segment.line()


def pairs(rows: Iterable[tuple[str, Text | str]]) -> Pairs:
    """Names on the left, facts on the right; text is shown character by character, whatever it contains."""
    return Pairs([(Text(name, style="quiet"), Text(strip_control_chars(fact)) if isinstance(fact, str) else fact) for name, fact in rows])


def to_copy(rows: Iterable[tuple[str, str]], width: int) -> Text:
    """Names and paths or commands, which are never broken into lines by us, but words are."""
    name_in, between, indent = ("{:<9}", "  ", " " * 13) if width >= NARROW else ("{}", "\n  ", "  ")
    told = [(name, f"\n{indent}".join(in_lines(fact, width - len(indent))) if name in WORDS else fact) for name, fact in rows]
    return Text("\n", no_wrap=True, overflow="ignore").join(
        Text.assemble("  ", (name_in.format(name), "quiet"), between, fact) for name, fact in told
    )


def fact_list(facts: Iterable[tuple[str, str, bool]]) -> RenderableType:
    """(name, value, fine): what is not fine stands out."""
    return block(pairs((name, Text(value, style="" if fine else "warning")) for name, value, fine in facts))


@dataclass(frozen=True)
class Indented:
    """A picture moved to the right by two, without spaces behind its lines: in a narrower terminal these would make lines of their own."""

    picture: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.picture, options.update_width(max(1, options.max_width - 2)), pad=False):
            yield Segment("  " if Segment.get_line_length(line) else "")
            yield from [*line, Segment.line()]


def block(*parts: RenderableType, above: int = 0) -> RenderableType:
    """Indented by two, with room above."""
    return Indented(Group(*[Text("")] * above, *parts))


@dataclass(frozen=True)
class FittingTable:
    """A table, or the same in lines where a word of it would be cut."""

    table: Table
    lines: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = "".join(segment.text for segment in console.render(self.table, options))
        yield self.table if set(self.lines.plain.split()) <= set(drawn.split()) else self.lines


def score_table(sides: Sequence[str], rows: Mapping[str, Sequence[Text]], *, change: str | None, wide: bool) -> FittingTable:
    """A row per metric: its name, a score for each side, and, under the heading `change`, what is different."""
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=wide)  # words are wrapped where there is no room, so that no number is cut
    for side in sides:
        table.add_column(side, justify="right", no_wrap=True)
    if change is not None:
        table.add_column(change, no_wrap=wide)
    lines = list[Text]()
    for metric, cells in rows.items():
        table.add_row(NAMES.get(metric, metric), *cells)
        told = zip([*(f"{side} " for side in sides), f"{change} " if change else ""], cells, strict=False)
        lines += [Text(NAMES.get(metric, metric)), *(Text.assemble((f"  {side}", "quiet"), cell) for side, cell in told if cell)]
    return FittingTable(table, Text("\n").join(lines))


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
