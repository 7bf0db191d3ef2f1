"""An opened source of rows, its records (a `Row`, or a `SkippedRow` that states where and why), and what is known about all of them.

origin = open_source(recipe.dataset, runtime, reporter)      # finetune.data.reading
next(origin.records())                                       # Row({"question": "...", "answer": "..."}, "train.jsonl", 1)
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from finetune.errors import BadRow, EmptyDataset, UnknownFormat
from finetune.foreign import COLUMNS, HELD
from finetune.formatting import counted
from finetune.system.shell import quoted

SETTINGS = "in which nothing looks like rows"
TAKES_TOOLS = "Qwen/Qwen2.5-0.5B-Instruct"  # the smallest of the models that the wizard offers
KEPT_SKIPPED = 1000  # skipped records that are listed one by one; all are counted
OBJECT = 64  # bytes of a number, a list or a mapping in memory, about
Item = TypeVar("Item")


class Row(NamedTuple):
    """One record as it is in the file; `line` counts from 1 (the record's number where a file has no lines)."""

    values: dict[str, Any]
    file: str
    line: int


class SkippedRow(NamedTuple):
    """A record that cannot be used."""

    file: str
    line: int
    reason: str


@dataclass
class Origin:
    """An opened source, be it files, a built-in dataset or one of the Hub: what identifies its content, and the records themselves."""

    name: str
    fingerprint: Callable[[], list[str]]  # reads all of the content: not called for a preview
    records: Callable[[], Iterator[Row | SkippedRow]]
    pinned: str | None = None
    notes: list[str] = field(default_factory=list)
    limit: int | None = None  # usable rows after which a streamed source is left
    encodings: list[str] = field(default_factory=list)  # of its text files
    prose: bool = False
    cut: bool = False  # its rows are running text that was cut: a chat may begin in one and end in another
    files: list[str] = field(default_factory=list)  # local ones, as they are called in reports
    restricted: bool = False  # a dataset of the Hub that not everybody can read, as far as could be checked


class RowProblem(ValueError):
    """Why one record cannot be used; raised by formats, kept as a `SkippedRow`."""


class NotWanted(RowProblem):
    """Why one record is left out on purpose: its data say so. It is counted, and not among the bad rows."""


class TooManyBadRows(BadRow):
    """More unusable rows than `dataset.bad_rows` allows; `share` would allow them."""

    def __init__(self, message: str, *, hint: str, share: float) -> None:
        super().__init__(message, hint=hint)
        self.share = share


@dataclass
class RowFacts:
    """What reading found; kept next to the rows."""

    origin: str
    pinned: str | None
    format: str
    columns: list[str]
    ignored_columns: list[str]
    files: list[str]
    read: int
    usable: int
    blank: int
    skipped: int
    skipped_rows: list[SkippedRow]
    notes: list[str]
    ignored_text: dict[str, float] = field(default_factory=dict)  # what is not trained on, as a share of all text
    left_out: dict[str, int] = field(default_factory=dict)  # rows whose data say that they are not to be learned, by reason

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RowFacts:
        facts = cls(**json.loads(path.read_text(encoding="utf-8")))
        facts.skipped_rows = [SkippedRow(*row) for row in facts.skipped_rows]
        return facts


def as_many(items: Iterator[Item], most: int, weight: Callable[[Item], int]) -> list[Item]:
    """The next items, at most `most`, and no more once they weigh HELD: a small file can contain very long rows."""
    taken, held = [], 0
    for item in items:
        taken.append(item)
        held += weight(item)
        if len(taken) == most or held >= HELD:
            break
    return taken


def weight_of(record: Any) -> int:
    """About the characters of a record in memory."""
    weight, left = 0, [record]
    while left:
        value = left.pop()
        weight += len(value) if isinstance(value, str | bytes) else OBJECT
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return weight


def check_column_names(names: list[str], file: str) -> None:
    """Raises UnknownFormat if two columns of a file have the same name."""
    if len(names) > COLUMNS:
        raise too_many_columns(file)
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UnknownFormat(f"{file} has more than one column called {twice[0]!r}.", hint="Give each column a different name.")


def told_apart(names: list[str]) -> list[str]:
    """Names of columns of which several have the same one with a number behind each of these: nobody knows which is meant."""
    times, number = Counter(names), Counter[str]()
    number.update(dict.fromkeys(names, 0))
    told = []
    for name in names:
        number[name] += 1
        told.append(f"{name} {number[name]}" if times[name] > 1 else name)
    return told


def too_many_columns(file: str) -> UnknownFormat:
    return UnknownFormat(f"{file} has more than {COLUMNS:,} columns.", hint="Leave out those that are not to be trained on.")


NAME_OTHERS = "Name other columns: --set dataset.columns.prompt=NAME ..."


def no_rows(
    origin: str, skipped: list[SkippedRow], left_out: Mapping[str, int] | None = None, blank: Sequence[str] = ()
) -> EmptyDataset | BadRow:
    """The error for a source without a single usable row; `left_out` has the reasons of rows that are not wanted, `blank` the columns that
    are empty in all of them.
    """
    if left_out and not skipped:
        reasons = "; ".join(f"{counted(rows, 'row')} because {reason}" for reason, rows in left_out.items())
        hint = "Give rows with answers to learn, or rename that column."
        return EmptyDataset(f"{origin}: no row is to be learned ({reasons}).", hint=hint)
    if not skipped and blank:
        empty = f"columns {', '.join(blank)} are" if len(blank) > 1 else f"column {blank[0]} is"
        return EmptyDataset(f"{origin}: the {empty} empty in every row.", hint=NAME_OTHERS)
    if not skipped:
        return EmptyDataset(f"{origin} contains no rows.", hint="Give data with at least two rows.")
    first = skipped[0]
    if len({row.reason for row in skipped}) == 1 and first.reason.endswith(("is missing", "is empty")):
        return EmptyDataset(f"{first.file}: {first.reason} in every row.", hint=NAME_OTHERS)
    return BadRow(f"{first.file}: no row can be used; for example line {first.line}: {first.reason}.", hint=_way_out(first.reason))


OF_PARTS = re.compile(r"column (\S+) has (?:an object \(([^,)]+).*\)|a list), not text$")
CELLS = "but the header has"
NO_UNICODE, A_LIST = "not valid Unicode", "has a list, not text"
OLDER_PAGES = ", such as cp850 or cp866 (DOS) or mac_roman (older Macs)"
ROLES_KNOWN = "known are system, user, assistant and tool"
NO_CHAT = "is not a chat in the format of the other rows"
AFTER = "after the last answer"


def _way_out(reason: str) -> str:
    """What a person can do about a row that cannot be used."""
    if reason.endswith(ROLES_KNOWN):
        return "Give every message a role: assistant for answers to learn, user for the rest."
    if "only text can be trained on" in reason:
        return "Give rows of text without images, audio or video."
    if reason.endswith(NO_UNICODE):
        return f"Its text encoding may be another one: --set dataset.encoding=NAME{OLDER_PAGES}."
    if found := OF_PARTS.search(reason):
        columns = "--set dataset.columns.prompt=NAME --set dataset.columns.completion=NAME"
        first = "" if found[2] else " (the first)"
        return f"Name the columns, and of this one the part you mean, such as {found[1]}.{found[2] or 0}{first}: {columns}"
    if CELLS in reason:
        return "Give every column a name in the line of names; in a CSV file, a text with a separator in it needs quotes."
    if reason.endswith(SETTINGS):
        return "Give a list of records, or one JSON object per line (.jsonl)."
    return "Correct these rows, or check that the content of the file matches its extension."


def _without(useless: str, files: Sequence[str]) -> str:
    """How to read `files` without one that has no rows: those of an archive can be chosen inside it."""
    archive, inside, _ = useless.partition("/")
    others = [name.removeprefix(f"{archive}/") for name in files]
    if not inside or not all(name.startswith(f"{archive}/") for name in files):
        return "Name only the files or the folder with rows, several with commas between them."
    chosen = others[0] if len(others) == 1 else f"[{', '.join(others)}]"
    return f"Read only the others: --set {quoted(f'dataset.data_files={chosen}')}"


def _lines(numbers: Iterable[int]) -> str:
    """Where rows are; a .json file may have all of them in one line."""
    different = list(dict.fromkeys(numbers))
    return f"line{'s' if len(different) > 1 else ''} {', '.join(map(str, different))}"


def too_many_bad_rows(listed: list[SkippedRow], skipped: int, read: int, allowed: float, files: Sequence[str] = ()) -> TooManyBadRows:
    """The error for a larger share of unusable rows than `allowed`; names the first of them. `files` are those with usable rows."""
    alike = groupby(listed[:3], key=lambda row: (row.file, row.reason))
    first = "; ".join(f"{file} {_lines(row.line for row in rows)}: {reason}" for (file, reason), rows in alike)
    more = f"; and {skipped - 3} more" if skipped > 3 else ""
    enough = min(1.0, math.ceil(100 * skipped / read) / 100)
    hint = f"Correct or remove them. Up to {100 * allowed:g} % are skipped. To skip all of these: --set dataset.bad_rows={enough:g}"
    useless = list(dict.fromkeys(row.file for row in listed))
    if all(row.reason.endswith(NO_UNICODE) for row in listed):
        hint = _way_out(NO_UNICODE)
    elif files and not set(useless) & set(files):
        of = useless[0] if len(useless) == 1 else f"{useless[0]} and {counted(len(useless) - 1, 'other file')}"
        hint = f"No row of {of} can be used. {_without(useless[0], files)}"
    elif all(row.reason.endswith(A_LIST) for row in listed):
        hint = _way_out(listed[0].reason)
    elif listed[0].reason.endswith(NO_CHAT):
        column = listed[0].reason.removeprefix("column ").removesuffix(f" {NO_CHAT}")
        hint = f"To learn all rows as text: --set {quoted(f'dataset.columns.text={column}')}. {hint}"
    elif skipped >= read:  # nothing would be left
        by_template, tools = "chat template" in listed[0].reason, "tools" in listed[0].reason
        hint = "Use a model whose chat template takes such rows." if by_template else "Correct them, or name other columns."
        hint = f"{hint.rstrip('.')}, for example --set model={TAKES_TOOLS}" if by_template and tools else hint
    return TooManyBadRows(f"{skipped} of {read} rows cannot be used ({first}{more}).", hint=hint, share=enough)
