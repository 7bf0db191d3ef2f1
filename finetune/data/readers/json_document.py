"""One JSON document: a list of records, {"data": [records]}, splits, a table by columns or by index, or a single record (one conversation).

[{"question": "2 + 2?", "answer": "4"}, ...]
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from finetune.data.encoding import lines_of, too_long, whole_of
from finetune.data.files import SPLITS, DataFile
from finetune.data.formats import is_known
from finetune.data.formats.messages import NAMES
from finetune.data.formats.turns import ROLES
from finetune.data.json_values import DECODER, Number
from finetune.data.readers.articles import rows_in
from finetune.data.readers.json_lines import parse_lines, reason_of
from finetune.data.rows import SETTINGS, Row, SkippedRow
from finetune.errors import BadRow
from finetune.foreign import TURNS, VALUES, has_many_values
from finetune.recipe import DatasetSpec

SPEAKER = {"role", "from", "speaker", "author", "sender"}  # what a turn may call its own, if the list is called messages or the like
HOLDERS = {"data", "dataset", "rows", "records", "examples", "samples", "instances", "items", "entries", "questions", "conversations"}
SHOWN_KEYS, SAMPLE = 6, 20
CHUNK = 1 << 20  # characters
ONE_PER_LINE = "Write one JSON object per line (.jsonl)."


class Window:
    """A window over the text; what is before `position` is dropped when more is read."""

    def __init__(self, rest: io.TextIOWrapper, file: DataFile) -> None:
        self.rest, self.file, self.name = rest, file, file.name
        self.text, self.position = "", 0
        self.line, self.counted = 1, 0  # the line of the character at `counted`

    def more(self) -> bool:
        """Read on, at least as much as is held already: an item that needs many reads is decoded few times."""
        self.line_here()
        self.text, self.position, self.counted = self.text[self.position :], 0, 0
        added = self.rest.read(max(CHUNK, len(self.text)))
        self.text += added
        return bool(added)

    def next_sign(self) -> str:
        """The character after the blanks from here, not passed yet; nothing at the end."""
        while True:
            while self.text[self.position : self.position + 1] in ("\n", " ", "\r", "\t"):
                self.position += 1
            if self.position < len(self.text) or not self.more():
                return self.text[self.position : self.position + 1]

    def line_here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def whole(self) -> str:
        self.text += whole_of(self.rest, self.file)
        self.check_values()
        return self.text

    def lines(self) -> Iterator[str]:
        """What was not dropped, from `line` on."""
        yield from io.StringIO(self.text + next(lines_of(self.rest, self.file), ""), newline="\n")
        yield from lines_of(self.rest, self.file)

    def decode(self) -> Any:
        """The JSON value that begins here; raises BadRow."""
        while True:
            try:
                item, end = DECODER.raw_decode(self.text, self.position)
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.position > self.file.longest_record:
                    raise too_long(self.file) from None
                if isinstance(error, RecursionError) or not self.more():
                    raise self.broken(error) from None
                self.check_values()
            else:
                if end < len(self.text) or not self.more():  # a number may go on
                    self.position = end
                    return item

    def check_values(self) -> None:
        """Raises BadRow for what would not fit into memory when it is decoded."""
        if has_many_values(self.text, VALUES, self.position):
            raise BadRow(f"{self.name}, line {self.line_here()}: more than {VALUES:,} values in one piece of JSON.", hint=ONE_PER_LINE)

    def broken(self, error: ValueError | RecursionError) -> BadRow:
        line = self.line_here()
        if isinstance(error, json.JSONDecodeError):
            line += self.text.count("\n", self.position, error.pos)
        return BadRow(
            f"{self.name}, line {line}: this is not valid JSON ({reason_of(error)}).",
            hint="Correct it, or write one JSON object per line (.jsonl).",
        )


def read_list(window: Window) -> Iterator[Row | SkippedRow]:
    """The records of a list one by one; the turns of one conversation together."""
    items = _items(window)
    head = list(islice(items, 1))
    if head and _is_turn(head[0][0]):
        head += islice(items, TURNS)
        if len(head) > TURNS:
            raise BadRow(f"{window.name} has a conversation of more than {TURNS:,} turns.", hint=ONE_PER_LINE)
        if _is_chat("", turns := [item for item, _ in head]):
            yield Row({"messages": turns}, window.name, head[0][1])
            return
    for item, line in chain(head, items):
        for each in rows_in(item):
            yield _as_row(each, window.name, line)


def read_document(window: Window, spec: DatasetSpec) -> Iterator[Row | SkippedRow]:
    """The records inside one JSON value; the lines of a text that is none but whose first line is."""
    text = window.whole()
    try:
        document = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        if not _is_json(text.strip().partition("\n")[0]):
            raise window.broken(error) from None
        yield from parse_lines(window.name, io.StringIO(text, newline="\n"), first=window.line)
        return
    records = _records(document, spec, window.file)
    if records is None:
        keys = f"{', '.join(list(document)[:SHOWN_KEYS])}{' ...' if len(document) > SHOWN_KEYS else ''}"
        yield SkippedRow(window.name, 1, f"one object with the keys {keys}, {SETTINGS}" if document else "an empty object")
    for number, item in enumerate(chain.from_iterable(map(rows_in, records or ())), start=1):
        yield _as_row(item, window.name, number)


def _items(window: Window) -> Iterator[tuple[Any, int]]:
    """The items of a list one by one, with the line each begins on; only one of them is decoded at a time."""
    window.position += 1
    if window.next_sign() == "]":
        window.position += 1
        return _check_end(window)
    while True:
        window.next_sign()
        line = window.line_here()
        item = window.decode()
        yield item, line
        separator = window.next_sign()
        if separator not in (",", "]") or not separator:
            raise window.broken(json.JSONDecodeError("a comma or ] is missing", window.text, window.position))
        window.position += 1
        if separator == "]":
            return _check_end(window)


def _check_end(window: Window) -> None:
    if window.next_sign():
        raise window.broken(json.JSONDecodeError("there is text after the end of the list", window.text, window.position))


def _records(document: Any, spec: DatasetSpec, file: DataFile) -> list[Any] | None:
    """The records inside one JSON value; None for an object in which nothing looks like rows, such as the settings of a program."""
    if not isinstance(document, dict):
        return [document]
    values = list(document.values())
    record_lists = {key: value for key, value in document.items() if _is_record_list(value)}
    if any(_is_chat(key, items) for key, items in record_lists.items()):
        return [document]
    wanted = next((word for word in (spec.split, *SPLITS.get(spec.split, ())) if word in record_lists), None)
    if wanted is not None:
        if others := [f"{key} ({len(items):,})" for key, items in record_lists.items() if key != wanted]:
            file.remarks.append(f"Not read in {file.name}, because the split is {spec.split}: {', '.join(others[:SHOWN_KEYS])}.")
        return list(record_lists[wanted])
    if len(record_lists) == 1 and not any(isinstance(value, list) and value for key, value in document.items() if key not in record_lists):
        ((key, found),) = record_lists.items()
        about = sum(isinstance(value, dict) for value in values)  # rows may have an object about them beside them, settings have many
        if key.lower() in HOLDERS or len(document) == 1 or (about < 2 and _recognised(found, spec)):
            return list(found)
    elif record_lists and _are_headings(document, record_lists, spec):
        shown = ", ".join(f"{key} ({len(items):,})" for key, items in list(record_lists.items())[:SHOWN_KEYS])
        file.remarks.append(f"Rows under all headings of {file.name} are read, and the headings are not learned: {shown}.")
        return list(chain.from_iterable(record_lists.values()))
    elif values and all(isinstance(value, list) for value in values):
        return _table(document, spec, file.name)
    elif values and all(isinstance(value, dict) for value in values):
        if all(key.isdigit() for key in document):  # {"0": {"question": ...}, "1": ...}
            return values
        if len({tuple(value) for value in values}) == 1:  # {"question": {"0": ...}, "answer": {"0": ...}}
            rows = [{key: document[key][index] for key in document} for index in values[0]]
            if _recognised(rows, spec) or all(key.isdigit() for key in values[0]):
                return rows
    return [document] if _recognised([document], spec) else None


def _are_headings(document: dict[str, Any], record_lists: dict[str, Any], spec: DatasetSpec) -> bool:
    """Whether each value is a list of rows, as in {"shipping": [{"question": ...}], "returns": [...]}, and not a column."""
    if len(record_lists) < len(document) or _recognised([document], spec):
        return False
    return all(_recognised(items, spec) for items in record_lists.values())


def _table(document: dict[str, list[Any]], spec: DatasetSpec, name: str) -> list[Any] | None:
    """The rows of an object of columns; of a single column only if its name says that it is one."""
    lengths = [len(value) for value in document.values()]
    rows = [dict(zip(document, cells, strict=False)) for cells in zip(*document.values(), strict=False)]
    if not _recognised(rows or [document], spec) and (len(document) == 1 or len(set(lengths)) > 1):
        return None
    if len(set(lengths)) > 1:
        shown = ", ".join(f"{key}: {len(value)}" for key, value in list(document.items())[:SHOWN_KEYS])
        raise BadRow(f"{name}: its columns have different lengths ({shown}).", hint="Every column needs one value per row.")
    return rows


def _recognised(records: list[Any], spec: DatasetSpec) -> bool:
    """Whether the names of columns say that records are rows: some format knows them, or a person named them."""
    sample = [record for record in records[:SAMPLE] if isinstance(record, dict)]
    return bool(sample) and is_known(list(dict.fromkeys(chain.from_iterable(sample))), sample, spec.columns)


def _is_record_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_chat(key: str, items: list[Any]) -> bool:
    """Whether a list contains the turns of one conversation, and not records."""
    if all(map(_is_turn, items)):
        return any(str(item.get("role", item.get("from"))).lower() in ROLES for item in items)
    return key.lower() in NAMES and all(not SPEAKER.isdisjoint(item) for item in items)


def _is_turn(item: Any) -> bool:
    return isinstance(item, dict) and ({"role", "content"} <= item.keys() or {"from", "value"} <= item.keys())


def _as_row(item: Any, name: str, line: int) -> Row | SkippedRow:
    if isinstance(item, dict):
        return Row(item, name, line)
    if isinstance(item, str) and not isinstance(item, Number):
        return Row({"text": item}, name, line)
    if _is_record_list(item):
        return Row({"messages": item}, name, line)
    return SkippedRow(name, line, "a JSON value that is not an object")


def _is_json(line: str) -> bool:
    try:
        return isinstance(DECODER.decode(line), dict)
    except (ValueError, RecursionError):
        return False
