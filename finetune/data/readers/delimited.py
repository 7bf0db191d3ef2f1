"""Tables in text: comma, semicolon, tab or bar between the cells, quotes around those that need them, names in the first line.

question;answer
"How many; in all?";3
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from finetune.data.encoding import UNREADABLE, lines_of, too_long
from finetune.data.files import DataFile
from finetune.data.readers.other_kind import check_kind
from finetune.data.readers.titles import about_titles, filled, titled
from finetune.data.rows import Row, SkippedRow, check_column_names, told_apart, too_many_columns
from finetune.errors import BadRow, EmptyDataset
from finetune.foreign import COLUMNS
from finetune.recipe import DatasetSpec

DELIMITERS = ",;\t|"
SAMPLE = 1 << 16
JUDGED, ENOUGH = 50, 10  # records
LIKELY, EVEN = 0.5, 0.9  # shares of records that have as many cells as the names, at least: usually, and below a title
TOLD = re.compile(r"sep=(.)\r?\n")
LONGEST_CELL = 2**31 - 1  # the limit of the csv module on every system


class Feed:
    """The lines for the csv module; raises BadRow when the lines of one record grow too long: a quote can keep it open for ever."""

    def __init__(self, lines: Iterator[str], file: DataFile) -> None:
        self.lines, self.file, self.longest, self.length = lines, file, file.longest_record, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.length += len(line)
        if self.length > self.longest:
            raise too_long(self.file)
        return line


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    with file.open() as raw:
        text = io.TextIOWrapper(raw, encoding=encoding, errors=UNREADABLE, newline="")
        csv.field_size_limit(min(file.longest_record, LONGEST_CELL))
        sample = text.read(SAMPLE)
        cut = len(sample) == SAMPLE
        if sample.endswith("\r"):
            sample += text.read(1)  # a line end is not torn apart
        if not sample.strip():
            raise EmptyDataset(f"{file.name} is empty.", hint="Give a file with a line of column names and at least two rows.")
        check_kind(sample, file)
        told = TOLD.match(sample)  # Excel's way to name the delimiter
        sample = sample[told.end() :] if told else sample
        style = _told(sample, told.group(1)) if told else _style(sample, file.suffix == ".tsv", cut)
        above = 1 if told else 0
        if not told and (titles := _titles(sample)):
            file.remarks.append(about_titles(file.name, titles[0]))
            sample, above = "".join(_cut(sample)[titles[1] :]), titles[1]
            style = _style(sample, file.suffix == ".tsv", cut)
        feed = Feed(_lines(sample, text, file), file)
        rows = csv.reader(feed, strict=True, **style)
        try:
            names = next(filter(None, rows))
            if len(names) > COLUMNS:
                raise too_many_columns(file.name)
            header = told_apart([name.strip() or f"column {number}" for number, name in enumerate(names, start=1)])
        except StopIteration:
            return
        except csv.Error as error:
            raise BadRow(
                f"{file.name}, line 1: the column names cannot be read ({error}).", hint="Check the quotes in the first line."
            ) from None
        check_column_names(header, file.name)
        yield from _records(rows, feed, header, file.name, above)


def _records(rows: Any, feed: Feed, header: list[str], name: str, above: int) -> Iterator[Row | SkippedRow]:
    while True:
        line = rows.line_num + 1 + above
        feed.length = 0
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise BadRow(
                    f"{name}, line {line}: an opening quote here has no closing quote.", hint='Double a quote inside a cell: "".'
                ) from None
            yield SkippedRow(name, line, f"broken quotes ({error})")
            continue
        if not cells:
            continue
        if len(cells) == len(header):
            yield Row(dict(zip(header, cells, strict=True)), name, line)
        else:
            yield SkippedRow(name, line, f"{len(cells)} cells, but the header has {len(header)}")


def _lines(sample: str, rest: io.TextIOWrapper, file: DataFile) -> Iterator[str]:
    """The sample and what follows it, cut at line ends (a cell in quotes may contain any of them)."""
    *whole, last = _cut(sample)
    yield from whole
    lines = lines_of(rest, file)
    first = last + next(lines, "")
    if first:
        yield first
    yield from lines


def _cut(text: str) -> list[str]:
    """Like reading a file with newline="": cut after \\n, \\r\\n and \\r, nowhere else; the last piece may be unfinished."""
    lines = io.StringIO(text, newline="").readlines()
    return lines if lines and not lines[-1].endswith(("\n", "\r")) else [*lines, ""]


def _style(sample: str, tabs: bool, cut: bool) -> dict[str, Any]:
    """The delimiter that cuts the first records most evenly; tab-separated text often has quotes that mean nothing.

    `cut` is whether the file continues after the sample.
    """
    whole_lines = sample[: sample.rfind("\n") + 1] or sample
    scores = {delimiter: _evenness(whole_lines, delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: (scores[delimiter], tabs and delimiter == "\t"))
    delimiter = best if scores[best] > 0 else ("\t" if tabs else ",")
    if delimiter == "\t" and not _quotes_balance(whole_lines, cut):
        return {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    return {"delimiter": delimiter, "skipinitialspace": _is_spaced(whole_lines, delimiter)}


def _told(sample: str, delimiter: str) -> dict[str, Any]:
    return {"delimiter": delimiter, "skipinitialspace": _is_spaced(sample, delimiter)}


def _titles(sample: str) -> tuple[list[str], int] | None:
    """The texts above the names of the columns, and how many lines they take; None where the first line has names."""
    if any(_evenness(sample, delimiter) >= LIKELY and len(filled(_records_of(sample, delimiter)[0])) > 1 for delimiter in DELIMITERS):
        return None
    for delimiter in DELIMITERS:
        titles, names, _ = titled(_numbered(sample, delimiter))
        spaced = names is not None and any(cell.startswith(" ") for cell in names[1])  # a comma in a sentence
        if names and titles and not spaced and _evenness("".join(_cut(sample)[names[0] - 1 :]), delimiter) >= EVEN:
            return titles, names[0] - 1
    return None


def _numbered(sample: str, delimiter: str) -> Iterator[tuple[int, list[Any]]]:
    """Records with the line each begins on, without blank cells at their ends."""
    rows, line = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), 1
    with suppress(csv.Error):
        for cells in rows:
            while cells and not cells[-1].strip():
                cells.pop()
            if cells:
                yield line, cells
            line = rows.line_num + 1


def _is_spaced(text: str, delimiter: str) -> bool:
    """Whether a blank after a delimiter is no part of the cell: there is one in the whole header, or before cells in quotes."""
    records = _records_of(text, delimiter)
    if records and len(records[0]) > 1 and all(name.startswith(" ") for name in records[0][1:]):
        return True
    quoted = any(cell.startswith(" ") and cell.lstrip(" ").startswith('"') for cells in records for cell in cells)
    if not quoted or _evenness(text, delimiter, skipinitialspace=True) < _evenness(text, delimiter):
        return False
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    read = 0
    try:
        for _ in islice(rows, JUDGED):
            read += 1
    except csv.Error as error:
        return "unexpected end" in str(error) and read >= ENOUGH  # a sample may end inside a cell
    return True


def _records_of(text: str, delimiter: str, **style: Any) -> list[list[str]]:
    """The first records that are not blank, up to one that cannot be read."""
    records: list[list[str]] = []
    with suppress(csv.Error):  # judged by the records before
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **style):
            if cells:
                records.append(cells)
            if len(records) == JUDGED:
                break
    return records


def _evenness(text: str, delimiter: str, **style: Any) -> float:
    """Share of records with as many cells as the first one; 0 if that has only one."""
    widths = list(map(len, _records_of(text, delimiter, **style)))
    return 0.0 if not widths or widths[0] == 1 else widths.count(widths[0]) / len(widths)


def _quotes_balance(text: str, cut: bool) -> bool:
    """Whether quotes can be meant as such; one that opens late in a sample may close after it."""
    lines = io.StringIO(text, newline="").readlines()
    rows = csv.reader(lines, delimiter="\t", strict=True)
    closed = 0  # lines of complete records
    try:
        for _ in rows:
            closed = rows.line_num
    except csv.Error as error:
        return cut and "unexpected end" in str(error) and 2 * sum(map(len, lines[closed:])) < len(text)
    return True
