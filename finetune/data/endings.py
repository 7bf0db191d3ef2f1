"""The kinds of data file that can be read, by their endings: whatever asks for endings derives them from this table.

can_be_read("rows.jsonl.gz"), ending_of("rows.jsonl.gz")       # True, ".jsonl"
"""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple


class Kind(NamedTuple):
    """`reader` is a file in readers/; `text` has an encoding; `prose` is cut into documents.

    `version` is part of every fingerprint: raise it when the same file would give other rows.
    """

    reader: str
    text: bool = True
    prose: bool = False
    version: str = ""


KINDS = {
    ".jsonl": Kind("json_file"),
    ".ndjson": Kind("json_file"),
    ".json": Kind("json_file", version="2"),
    ".csv": Kind("delimited", version="3"),
    ".tsv": Kind("delimited", version="3"),
    ".xlsx": Kind("excel", text=False, version="2"),
    ".parquet": Kind("tables", text=False),
    ".arrow": Kind("tables", text=False),
    ".txt": Kind("plain_text", prose=True),
    ".md": Kind("plain_text", prose=True, version="2"),
}
# What people have instead, and how it becomes something that can be read.
CONVERTED = {
    ".xls": "Open it in Excel or LibreOffice and save it as .xlsx or CSV.",
    ".ods": "Open it in LibreOffice and save it as .xlsx or CSV.",
    ".numbers": "In Numbers: File, Export to, CSV.",
    ".docx": "Save it as plain text (.txt).",
    ".doc": "Save it as plain text (.txt).",
    ".pdf": "Copy its text into a .txt file.",
}
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # behind any of them, to what pyarrow calls it
ARCHIVE = ".zip"
READABLE = f"Readable: {', '.join(KINDS)}, also inside {', '.join(PACKED)} and {ARCHIVE}."


def ending_of(name: str) -> str:
    """The kind of content, whether packed or not."""
    path = PurePath(name)
    return PurePath(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


def is_record_file(name: str) -> bool:
    """Whether a file contains records rather than running text."""
    kind = KINDS.get(ending_of(name))
    return kind is not None and not kind.prose


def can_be_read(name: str) -> bool:
    return ending_of(name) in KINDS or name.lower().endswith(ARCHIVE)
