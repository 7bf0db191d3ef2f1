"""Running text to documents: cut between paragraphs (between lines where there are no blank ones), never inside.

Every character that is not a blank line at a cut ends up in exactly one document. A document is about as long as `max_length`
tokens, shorter in a few small files so that some can be held out; a heading of the first level begins a new one. `dataset.text_as` asks
for a line or a whole file instead.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import chain, islice

from finetune.data.encoding import UNREADABLE, lines_of, whole_of
from finetune.data.files import DataFile
from finetune.data.readers.other_kind import check_kind, looks_like
from finetune.data.rows import Row, SkippedRow
from finetune.foreign import LINE
from finetune.recipe import DatasetSpec

CHARACTERS_PER_TOKEN = 3  # a low estimate, so that a document rarely needs a second block
LEAST_DOCUMENTS = 50  # of all files together
HEADING = {".txt": re.compile(r"\s*(= )+[^=\n]+( =)+\s*"), ".md": re.compile(r"\s*#+ (?:[^\n]*\S)?\s*")}  # wiki text, Markdown
TITLE = {".txt": re.compile(r"\s*= [^=\n]+ =\s*(\n|$)"), ".md": re.compile(r"\s*# ")}  # of the first level
SAMPLE = 1 << 16
FRONT_MATTER = re.compile(r"---[ \t]*\n[\w-]+:.*\n(?:(?:[\w-]+:|[ \t]|-|#).*\n|\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
FRONT = "The front matter of Markdown files (between two lines of ---) is not learned. To learn it too: --set dataset.text_as=document"


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    if spec.text_as != "auto":
        yield from _as_asked(file, encoding, whole=spec.text_as == "document")
        return
    longest = longest_document(spec, file.path.stat().st_size, file)
    with file.open() as raw, io.TextIOWrapper(raw, encoding=encoding, errors=UNREADABLE) as begin:
        sample = begin.read(SAMPLE)
    check_kind(sample, file)
    if said := looks_like(sample, file.name):
        file.remarks.append(said)
    above = _front_matter(sample) if file.suffix == ".md" else 0
    if above:
        file.remarks.append(FRONT)
    with file.open() as raw:
        text = io.TextIOWrapper(raw, encoding=encoding, errors=UNREADABLE)
        yield from as_documents(islice(lines_of(text, file), above, None), longest, file.name, file.suffix, 1 + above)


def longest_document(spec: DatasetSpec, size: int, file: DataFile) -> int:
    """Characters of a document, of a file with `size` of them."""
    return min(spec.max_length * CHARACTERS_PER_TOKEN, max(1, size // max(1, LEAST_DOCUMENTS // file.together)))


def as_documents(lines: Iterator[str], longest: int, name: str, suffix: str = ".txt", first: int = 1) -> Iterator[Row]:
    """The text of some lines in documents of `longest` characters; paragraphs stay whole; `first` is the first line."""
    heading, title = HEADING[suffix], TITLE[suffix]
    document, begins = "", first
    headings, headings_begin = "", first
    for paragraph, line in _paragraphs(lines, first):
        if not headings:
            headings_begin = line
        headings += paragraph
        if heading.fullmatch(paragraph) and len(headings) < LINE:
            continue  # it belongs to what follows
        section, headings = headings, ""
        if document.strip() and (len(document) + len(section) > longest or title.match(section)):
            yield Row({"text": _without_blank_ends(document)}, name, begins)
            document, begins = "", headings_begin
        document += section
    document += headings
    if document.strip():
        yield Row({"text": _without_blank_ends(document)}, name, begins)


def _as_asked(file: DataFile, encoding: str | None, *, whole: bool) -> Iterator[Row | SkippedRow]:
    """One document per file (later cut into blocks of `max_length` tokens), or one per line."""
    with file.open() as raw:
        text = io.TextIOWrapper(raw, encoding=encoding, errors=UNREADABLE)
        for number, document in enumerate([whole_of(text, file)] if whole else lines_of(text, file), start=1):
            if document.strip():
                yield Row({"text": document if whole else document.removesuffix("\n")}, file.name, number)


def _without_blank_ends(text: str) -> str:
    lines = text.split("\n")
    written = [number for number, line in enumerate(lines) if line.strip()]
    return "\n".join(lines[written[0] : written[-1] + 1])


def _front_matter(sample: str) -> int:
    """The lines of YAML between --- that tools for notes and sites put above a text."""
    found = FRONT_MATTER.match(sample)
    return found.group().count("\n") if found else 0


def _paragraphs(lines: Iterator[str], first: int) -> Iterator[tuple[str, int]]:
    """Paragraphs with the blank lines after them, and the line each begins on; `first` is that of the first line."""
    ahead: list[str] = []
    seen = 0
    while seen < SAMPLE and (line := next(lines, "")):
        ahead.append(line)
        seen += len(line)
    by_line = all(line.strip() for line in ahead)
    paragraph: list[str] = []
    begins, length, blank_seen = first, 0, False
    for number, line in enumerate(chain(ahead, lines), start=first):
        blank = not line.strip()
        if paragraph and (by_line or (blank_seen and not blank) or length > LINE):
            yield "".join(paragraph), begins
            paragraph, begins, length = [], number, 0
        paragraph.append(line)
        length += len(line)
        blank_seen = blank
    if paragraph:
        yield "".join(paragraph), begins
