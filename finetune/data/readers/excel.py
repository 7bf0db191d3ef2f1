"""Excel workbooks (.xlsx), read by openpyxl: the sheet that has the rows, and those with the same names in their first line below a title.

Sheets that a person hid are read only where there are no others.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple

from finetune.data.files import SPLITS, DataFile
from finetune.data.formats import chosen_columns, is_known
from finetune.data.readers.titles import SHOWN, Line, about_titles, filled, titled
from finetune.data.rows import Row, SkippedRow, check_column_names, told_apart, too_many_columns
from finetune.errors import BadRow, DatasetError, EmptyDataset
from finetune.foreign import AGAIN, COLUMNS, PACKING, UNPACKED
from finetune.formatting import size
from finetune.letters import shortened
from finetune.recipe import DatasetSpec

SMALL = 5_000_000  # bytes that every workbook may have
ROW = re.compile(rb"<(?:\w+:)?row\b")
TAGS_OF_A_ROW, TAGS = 10 * COLUMNS, 10_000_000
MERGED = re.compile(rb'<(?:\w+:)?mergeCell ref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"')
TAG = 60  # bytes of such a tag, at most
HEADINGS = "{name}: lines with nothing but a cell merged over columns, such as `{heading}`, are taken for headings, and not read."
OF_SPLITS = {*chain(*SPLITS.values())}  # words in the titles of sheets
COPIES = {"copy", "old", "backup", "draft", "template"}
INSTEAD = "Or in Excel: File, Save as, CSV UTF-8, and give that file."


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    with _opened(file) as book:
        shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
        merged = {sheet: _merged(sheet) for sheet in shown}
        begun = {sheet: titled(_lines(sheet, merged[sheet])) for sheet in shown}
        names = {sheet: line[1] for sheet, (_, line, _) in begun.items() if line}
        if not names:
            raise EmptyDataset(f"{file.name} is empty.", hint="Give a sheet with a line of column names and at least two rows.")
        titles = [sheet.title for sheet in names]
        first = _with_rows(names, set(chosen_columns(spec.columns).values()), merged)
        alike = [sheet for sheet, cells in names.items() if cells == names[first]]
        alike = [sheet for sheet in alike if sheet is first or not _is_copy(sheet.title, titles)]
        if any(_words(sheet.title) & OF_SPLITS for sheet in alike):  # others are not to be trained on with it
            alike = [next((sheet for sheet in alike if _words(sheet.title) & {*SPLITS.get(spec.split, ())}), first)]
        others = [sheet.title for sheet in names if sheet not in alike]
        if len(names) > 1:
            which = f"sheets {', '.join(sheet.title for sheet in alike)} are" if len(alike) > 1 else f"sheet {alike[0].title} is"
            more = f", and not {', '.join(others)}" if others else ""
            file.remarks.append(f"{file.name}: the {which} read{more}.")
        for sheet in alike:
            above, _, lines = begun[sheet]
            if above:
                file.remarks.append(about_titles(file.name, above))
            name = f"{file.name}, sheet {sheet.title}" if len(alike) > 1 else file.name
            yield from _rows(lines, _header(names[sheet], file), merged[sheet].wide, file, name)


def _words(title: str) -> set[str]:
    return set(re.split("[^a-z]+", title.lower()))


def _is_copy(title: str, titles: Sequence[str]) -> bool:
    """Whether a sheet is a copy as Excel names it, FAQ (2), or is called a copy."""
    return bool(_words(title) & COPIES) or re.sub(r" \(\d{1,3}\)\Z", "", title) in {*titles} - {title}


def _rows(lines: Iterator[Line], header: list[str], wide: set[int], file: DataFile, name: str) -> Iterator[Row | SkippedRow]:
    for number, cells in _without_headings(lines, wide, file) if len(header) > 1 else lines:
        values = cells[: len(header)] + [""] * (len(header) - len(cells))
        if any(cell != "" for cell in cells[len(header) :]):
            yield SkippedRow(name, number, f"{len(cells)} cells, but the header has {len(header)}")
        else:
            yield Row(dict(zip(header, values, strict=True)), name, number)


def _without_headings(lines: Iterator[Line], wide: set[int], file: DataFile) -> Iterator[Line]:
    """Lines below the names but for those with nothing but a cell that was merged over columns, of which the first is named."""
    headed = False
    for number, cells in lines:
        if number not in wide or len(filled(cells)) > 1:
            yield number, cells
        elif not headed:
            headed = True
            file.remarks.append(HEADINGS.format(name=file.name, heading=shortened(str(filled(cells)[0]), SHOWN)))


def _with_rows(names: dict[Any, list[Any]], wanted: set[str], merged: Mapping[Any, Merged]) -> Any:
    """The first sheet with all columns that a person named; else with known ones; else the one with the most cells."""
    columns = {sheet: list(map(str, cells)) for sheet, cells in names.items()}
    named = [sheet for sheet, found in columns.items() if wanted and wanted <= set(found)]
    known = [sheet for sheet, found in columns.items() if is_known(found, [], None)]
    if first := [*named, *known][:1] or (list(names) if len(names) == 1 else []):
        return first[0]
    return max(names, key=lambda sheet: sum(len(filled(cells)) for _, cells in _lines(sheet, merged[sheet])))


@contextmanager
def _opened(file: DataFile) -> Iterator[Any]:
    try:
        import openpyxl
    except ImportError:
        raise DatasetError(
            f"Reading {file.name} needs the package openpyxl.", hint=f"Install it: pip install openpyxl. {INSTEAD}"
        ) from None
    content = io.BytesIO()
    for block in file.blocks():
        content.write(block)
        _check_size(content.tell(), UNPACKED, file)
    try:
        with zipfile.ZipFile(content) as parts:
            _check_size(sum(part.file_size for part in parts.infolist()), min(UNPACKED, max(SMALL, PACKING * content.tell())), file)
            _check_parts(parts, file)
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, openpyxl.utils.exceptions.InvalidFileException):
        raise BadRow(f"{file.name} is not a complete .xlsx file.", hint=AGAIN) from None
    try:
        yield book
    finally:
        book.close()


def _check_size(bytes: int, most: int, file: DataFile) -> None:
    if bytes > most:
        raise BadRow(f"{file.name} unpacks to more than {size(most)}.", hint=INSTEAD)


def _check_parts(parts: zipfile.ZipFile, file: DataFile) -> None:
    """Raises BadRow for a row, or a list beside the sheets, that openpyxl would hold as more objects than there is memory for."""
    for name in (part.filename for part in parts.infolist() if part.filename.endswith(".xml")):
        rows, tags = name.startswith("xl/worksheets/"), 0
        with parts.open(name) as part:
            while block := part.read(1 << 20):
                first, *others = ROW.split(block) if rows else [block]
                tags += first.count(b"<")
                largest = max([tags, *(other.count(b"<") for other in others)])
                if largest > (TAGS_OF_A_ROW if rows else TAGS):
                    raise BadRow(f"{file.name} has {'a row' if rows else 'a list'} with too many cells.", hint=INSTEAD)
                tags = others[-1].count(b"<") if others else tags


def _lines(sheet: Any, merged: Merged) -> Iterator[Line]:
    """Lines that are not blank, with their numbers in the sheet, as read so far."""
    held = dict[int, tuple[int, Any]]()
    sheet.reset_dimensions()  # a file may claim a million rows of sixteen thousand cells: only those that are there count
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        values = [_plain(cell) for cell in cells]
        while values and values[-1] == "":
            values.pop()
        if values:
            held |= {column: (last, values[column]) for column, last in merged.down.get(number, ()) if column < len(values)}
            yield number, _with_merged(values, number, held)


def _with_merged(values: list[Any], number: int, held: Mapping[int, tuple[int, Any]]) -> list[Any]:
    """The values of a line, with those of merged cells that began above it."""
    for column, (last, value) in held.items():
        if number <= last and value != "":
            values += [""] * (column + 1 - len(values))
            values[column] = value
    return values


class Merged(NamedTuple):
    """Cells over several rows, as column and last row by the first one, which alone has their content; and rows with one over columns."""

    down: dict[int, list[tuple[int, int]]]
    wide: set[int]


def _merged(sheet: Any) -> Merged:
    """openpyxl does not tell it of a sheet that is read while it is unpacked."""
    merged = Merged({}, set())
    with sheet.parent._archive.open(sheet._worksheet_path) as part:
        before = b""
        while block := part.read(1 << 20):
            for column, first, other, last in MERGED.findall(before + block) if b"mergeCell" in before + block else ():
                if first != last:
                    merged.down.setdefault(int(first), []).append((_number(column), int(last)))
                elif column != other:
                    merged.wide.add(int(first))
            before = block[-TAG:]
    return merged


def _number(letters: bytes) -> int:
    """0 for A, 26 for AA."""
    return reduce(lambda number, letter: 26 * number + letter - ord("A") + 1, letters, 0) - 1


def _header(cells: list[Any], file: DataFile) -> list[str]:
    if len(cells) > COLUMNS:
        raise too_many_columns(file.name)
    names = told_apart([str(cell).strip() or f"column {number}" for number, cell in enumerate(cells, start=1)])
    check_column_names(names, file.name)
    return names


def _plain(cell: Any) -> Any:
    """A cell as text or number, a date as 2024-05-31."""
    if cell is None:
        return ""
    if isinstance(cell, bool | int | str):
        return cell
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() else cell
    return cell.isoformat(" ").removesuffix(" 00:00:00") if hasattr(cell, "hour") and hasattr(cell, "year") else str(cell)
