"""Files whose content is of another kind than their name says: records in a .txt file would be learned as text, braces and all.

check_kind('{"prompt": "2 + 2 ="}', file)       # raises UnknownFormat for rows.txt and rows.csv: it has records in JSON
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import islice

from finetune.data.files import DataFile
from finetune.data.formats import is_known
from finetune.errors import UnknownFormat

JSON = re.compile(r"\s*(?:\[\s*)?\{\s*\"[^\"\n]{1,200}\"\s*:")
DELIMITERS = "\t,;|"
ANKI = "#separator:"
NAMED = "Replace the lines that begin with # by one line of names, with the same separator between them, and rename it to end in .csv."
SAID = re.compile(
    r"[\u200e\u202a]?\[?\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? \d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[AaPp]\.?\s?[Mm]\.?)?(?:\]| -) [^:\n]{1,60}: "
)
LINES, FEWEST, FEWEST_OF_A_TABLE = 40, 3, 10  # judged, and needed for a chat or a table
LONGEST_NAME = 40  # characters of a column's name, in a line that is taken for a header
AS_TEXT = "To learn each line as it is: --set dataset.text_as=line"  # a document would be a single row


def check_kind(sample: str, file: DataFile) -> None:
    """Raises UnknownFormat if text, or a table, begins as JSON records or notes of Anki do; and if text is a table.

    Markdown may begin with either.
    """
    if file.suffix == ".md":
        return
    if sample.startswith(ANKI):
        raise UnknownFormat(
            f"{file.name} has notes of Anki, whose columns have no names.", hint=f"{NAMED} {AS_TEXT}" if file.kind.prose else NAMED
        )
    if JSON.match(sample):
        hint = "Rename it to end in .jsonl (one object per line) or .json (one list)."
        raise UnknownFormat(f"{file.name} has records in JSON.", hint=f"{hint} {AS_TEXT}" if file.kind.prose else hint)
    if file.kind.prose and (names := _header(sample)):
        hint = f"Rename it to end in .csv. {AS_TEXT}"
        raise UnknownFormat(f"{file.name} has a table, with the columns {', '.join(names)}.", hint=hint)
    if file.kind.prose and _is_table_of_tabs(sample):
        hint = f"Put a line with a name for each column above it, with tabs between them, and rename it to end in .tsv. {AS_TEXT}"
        raise UnknownFormat(f"{file.name} has a table, whose columns have no names.", hint=hint)


def is_chat_log(sample: str) -> bool:
    """Whether a text begins with the lines of a chat, each with its time and who said it, as in [12/03/24, 09:15:02] Ann: Hello."""
    lines = [line for line in sample.splitlines()[:LINES] if line.strip()]
    said = sum(SAID.match(line) is not None for line in lines)
    return said >= FEWEST and 2 * said >= len(lines)


def _is_table_of_tabs(sample: str) -> bool:
    """Whether every line of the first ones has the same number of tabs inside, as pairs of sentences in two languages have."""
    lines = sample.splitlines()[:LINES]
    tabs = {line.strip().count("\t") for line in lines}
    return len(lines) >= FEWEST_OF_A_TABLE and len(tabs) == 1 and tabs != {0}


def _header(sample: str) -> Sequence[str]:
    """The names in the first line of a table; none if it is not one."""
    for delimiter in DELIMITERS:
        try:
            names, *rows = islice(csv.reader(io.StringIO(sample.lstrip("\r\n"), newline=""), delimiter=delimiter), 3)
        except (csv.Error, ValueError):
            continue
        names = [name.strip() for name in names]
        even = len(names) > 1 and bool(rows) and all(len(row) == len(names) for row in rows)
        if even and all(0 < len(name) <= LONGEST_NAME for name in names) and is_known(names, [], None):
            return names
    return ()
