"""Files whose content is of another kind than their name says: records in a .txt file would be learned as text, braces and all.

check_kind('{"prompt": "2 + 2 ="}', file)       # raises UnknownFormat for rows.txt and rows.csv: it has records in JSON
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import chain, islice
from typing import NamedTuple

from finetune.data.files import DataFile
from finetune.data.formats import is_known
from finetune.data.formats.languages import names_of
from finetune.errors import UnknownFormat

JSON = re.compile(r"\s*(?:\[\s*)?\{\s*\"[^\"\n]{1,200}\"\s*:")
DELIMITERS = "\t,;|"
ANKI = "#separator:"
NAMED = "Replace the lines that begin with # by one line of names, with the same separator between them, and rename it to end in .csv."
# Date and time in any language: 12/03/24, 09:15 or 3/12/24, 9:15 p. m. or 2024/3/12 下午9:15 or 2024년 3월 12일 오후 9:15
WHEN = r"\W{0,3}\d{1,4}\D{1,3}\d{1,2}\D{1,3}\d{1,4}\D{1,12}\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[^\W\d_]{1,4}\.?(?:\s?m\.)?)?"
LINES, FEWEST, FEWEST_OF_A_TABLE = 40, 3, 10  # judged, and needed for a chat or a table
RTF = "{\\rtf"
MARKUP = re.compile(r"\s*<(?:!doctype html|html|\?xml|mediawiki)\b", re.IGNORECASE)

ASKED = "|".join(map(re.escape, chain(names_of("question"), names_of("answer"))))

LEAVE = "Remove them if they are not wanted."


class Look(NamedTuple):
    """What a text is of whose first lines, but for blank ones, a `share` is of that form; what is learned with it, and what helps."""

    line: re.Pattern[str]
    share: float
    what: str
    along: str
    instead: str


PAGE = Look(MARKUP, 0, "a web page or XML", "its tags", "For its words alone, open it in a browser and save it as text.")
LOOKS = (
    Look(
        re.compile(WHEN + r"(?:(?:\]| -) [^:\n]{1,60}: |\] [^:\n]{1,60}$|, [^:\n]{1,60} : )|\d\d:\d\d\t[^\t\n]{1,60}\t"),
        0.3,
        "a chat",
        "the times and names",
        "To learn what one person answers, make rows of chat messages.",
    ),
    Look(re.compile(r"(?:\d+:)?\d\d:\d\d[.,]\d{3} --> "), 0.2, "subtitles", "the numbers and times", LEAVE),
    Look(re.compile(r"={10}$"), 0.2, "highlights from a Kindle", "titles, places and dates", LEAVE),
    Look(
        re.compile(r"(?:From|To|Cc|Subject|Date|Message-ID|Received|Content-Type): "),
        0.3,
        "mails",
        "their headers",
        "To learn the answers, make rows of prompt and completion.",
    ),
    Look(
        re.compile(rf"\**(?:Q\.|(?:Q|A|Question|Answer|Human|User|Assistant|Bot|[问問答]|(?i:{ASKED}))(?: ?\d{{1,3}}[:：.]|[:：]))"),
        0.3,
        "questions and answers",
        "the questions too",
        "To learn the answers, make rows of question and answer.",
    ),
)
SAMPLE = 1 << 16  # characters that readers hand over, at most
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
    if file.kind.prose and sample.startswith(RTF):
        raise UnknownFormat(f"{file.name} is a word-processor document (RTF), not text.", hint="Open it and save it as plain text.")
    if not file.kind.prose and MARKUP.match(sample):
        raise web_page(file)
    if JSON.match(sample):
        hint = "Rename it to end in .jsonl (one object per line) or .json (one list)."
        raise UnknownFormat(f"{file.name} has records in JSON.", hint=f"{hint} {AS_TEXT}" if file.kind.prose else hint)
    if file.kind.prose and (names := _header(sample)):
        hint = f"Rename it to end in .csv. {AS_TEXT}"
        raise UnknownFormat(f"{file.name} has a table, with the columns {', '.join(names)}.", hint=hint)
    if file.kind.prose and _is_table_of_tabs(sample):
        hint = f"Put a line with a name for each column above it, with tabs between them, and rename it to end in .tsv. {AS_TEXT}"
        raise UnknownFormat(f"{file.name} has a table, whose columns have no names.", hint=hint)


def web_page(file: DataFile) -> UnknownFormat:
    return UnknownFormat(
        f"{file.name} is a web page or XML, not data.",
        hint="If it was downloaded, open it: it may say why the data were not there, or ask you to sign in.",
    )


def looks_like(sample: str, name: str) -> str | None:
    """What a person should know about a text that is learned as it is though it has more than running text; None where it has not."""
    lines = [line for line in sample.splitlines()[:LINES] if line.strip()]
    found = PAGE if MARKUP.match(sample) else None
    for look in LOOKS if found is None else ():
        alike = sum(look.line.match(line) is not None for line in lines)
        if alike >= FEWEST and alike >= look.share * len(lines):
            found = look
    return None if found is None else f"{name} looks like {found.what}, and is learned as it is, with {found.along}. {found.instead}"


def _is_table_of_tabs(sample: str) -> bool:
    """Whether each line has as many tabs inside, as pairs of sentences in two languages have.

    Tabs that lie together are there for the looks, and those after "Ann:" are of a conversation.
    """
    lines = [line.strip() for line in sample.splitlines()]
    lines = lines[:-1] if len(sample) >= SAMPLE else lines  # the last one may be cut
    tabs = {line.count("\t") for line in lines}
    cells = [line.partition("\t")[0] for line in lines]
    loose = sum("\t\t" in line or cell.endswith(":") for line, cell in zip(lines, cells, strict=True))
    return len(lines) >= FEWEST_OF_A_TABLE and len(tabs) == 1 and tabs != {0} and 2 * loose < len(lines)


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
