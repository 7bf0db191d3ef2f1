"""Word documents (.docx): the words of their paragraphs, and of tables a line for each row; cut like any running text.

Pictures, footnotes, what a change has deleted, and the numbers of lists are not read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import IO
from xml.etree.ElementTree import ParseError, iterparse

from finetune.data.files import DataFile
from finetune.data.readers.plain_text import as_documents, longest_document
from finetune.data.rows import Row, SkippedRow
from finetune.errors import BadRow
from finetune.foreign import AGAIN, PACKING, UNPACKED
from finetune.formatting import size
from finetune.recipe import DatasetSpec

CONTENT = "word/document.xml"
SMALL = 5_000_000  # bytes that every document may have
SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
TWICE = ("Fallback", "moveFrom", "rt")  # what is there again in another place; rt: how Japanese letters are read, in small ones above
WORDS = "Of Word documents the words are read, and not pictures, footnotes and the numbers of lists."


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    file.remarks.append(WORDS)
    content = io.BytesIO()
    for block in file.blocks():
        content.write(block)
        _check_size(content.tell(), UNPACKED, file)
    try:
        with zipfile.ZipFile(content) as parts, parts.open(CONTENT) as part:
            _check_size(parts.getinfo(CONTENT).file_size, min(UNPACKED, max(SMALL, PACKING * content.tell())), file)
            paragraphs = list(filter(str.strip, _paragraphs(part)))
    except (zipfile.BadZipFile, KeyError, ParseError):
        raise BadRow(f"{file.name} is not a complete .docx file.", hint=AGAIN) from None
    if spec.text_as == "line":
        yield from (Row({"text": text}, file.name, number) for number, text in enumerate(paragraphs, start=1))
    elif spec.text_as == "document":
        yield Row({"text": "\n\n".join(paragraphs)}, file.name, 1)
    else:
        longest = longest_document(spec, sum(map(len, paragraphs)), file)
        yield from as_documents((f"{text}\n\n" for text in paragraphs), longest, file.name)


def _check_size(bytes: int, most: int, file: DataFile) -> None:
    if bytes > most:
        raise BadRow(f"{file.name} unpacks to more than {size(most)}.", hint="Save it as plain text (.txt).")


def _paragraphs(part: IO[bytes]) -> Iterator[str]:
    """The text of each paragraph and of each row of a table, in their order."""
    texts: list[list[str]] = []  # of the paragraphs that are open: one may be in a box of another
    rows: list[list[list[str]]] = []  # of tables, with their cells, and the paragraphs of these
    run = skipped = 0
    for event, element in iterparse(part, events=("start", "end")):
        name, begins = element.tag.rpartition("}")[2], event == "start"
        if name in TWICE:
            skipped += 1 if begins else -1
        elif name == "r":
            run += 1 if begins else -1
        elif begins:
            if name == "p":
                texts.append([])
            elif name == "tr":
                rows.append([])
            elif name == "tc" and rows:
                rows[-1].append([])
        elif name in SIGNS or name == "t":
            if run and not skipped and texts:
                texts[-1].append(SIGNS.get(name) or element.text or "")
        elif name in ("p", "tr"):
            said = "".join(texts.pop()) if name == "p" else "\t".join(" ".join(filter(None, cell)) for cell in rows.pop())
            element.clear()
            if rows and rows[-1]:
                rows[-1][-1].append(said)
            else:
                yield said
