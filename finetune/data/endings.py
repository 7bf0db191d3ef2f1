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
    ".json": Kind("json_file", version="3"),
    ".csv": Kind("delimited", version="4"),
    ".tsv": Kind("delimited", version="4"),
    ".xlsx": Kind("excel", text=False, version="3"),
    ".parquet": Kind("tables", text=False),
    ".arrow": Kind("tables", text=False),
    ".txt": Kind("plain_text", prose=True),
    ".md": Kind("plain_text", prose=True, version="2"),
    ".docx": Kind("word", text=False, prose=True),
}
# What people have instead, and how it becomes something that can be read.
_TEXT = "Save it as plain text (.txt)."
_PANDOC = "Convert it to text, with pandoc or Calibre, and give the .txt file."
_UNPACK = "Unpack it, and give the folder."
_ROWS = "Write what you want to be learned as rows of a CSV or .jsonl file."
_BY_EXCEL = "Open it in Excel or LibreOffice and save it as .xlsx or CSV."


def _renamed(ending: str) -> str:
    return f"Rename it to end in {ending}."


CONVERTED = {
    **dict.fromkeys((".xls", ".xlsm", ".xlsb"), _BY_EXCEL),
    ".ods": "Open it in LibreOffice and save it as .xlsx or CSV.",
    ".numbers": "In Numbers: File, Export to, CSV.",
    ".gsheet": "In Google Sheets: File, Download, .xlsx or CSV.",
    ".pdf": "Turn it into text, as `pdftotext` does, or copy its text into a .txt file.",
    **dict.fromkeys((".doc", ".odt", ".rtf", ".pptx", ".pages", ".html", ".htm", ".mhtml", ".gdoc", ".enex", ".one"), _TEXT),
    **dict.fromkeys((".epub", ".mobi", ".azw3", ".fb2", ".tex", ".rst", ".org", ".adoc"), _PANDOC),
    **dict.fromkeys((".srt", ".vtt", ".ass", ".ssa", ".sub", ".sbv", ".lrc"), "Copy its text without the times into a .txt file."),
    **dict.fromkeys((".apkg", ".colpkg"), "In Anki: File, Export, Notes in Plain Text (.txt)."),
    ".ipynb": "Convert it with `jupyter nbconvert --to markdown`, and give the .md files.",
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".sql"), "Export its table as CSV."),
    **dict.fromkeys((".bib", ".ris"), "In the program it comes from, such as Zotero, export as CSV."),
    **dict.fromkeys((".mbox", ".eml", ".msg", ".xml", ".yaml", ".yml", ".po", ".tmx", ".xliff"), _ROWS),
    **dict.fromkeys((".pkl", ".npy", ".npz", ".h5", ".hdf5", ".orc", ".avro", ".tfrecord"), "In Python, save it as Parquet or CSV."),
    **dict.fromkeys((".zip", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".tar", ".tgz", ".tbz2", ".txz"), "Unpack it with `tar -xf FILE`, and give the files that were in it."),
    ".xz": "Unpack it with `xz -dk FILE`, and give the file that was in it.",
    **dict.fromkeys((".jsonlines", ".jl"), _renamed(".jsonl")),
    **dict.fromkeys((".markdown", ".mdown", ".mdx"), _renamed(".md")),
    **dict.fromkeys((".tab", ".psv"), _renamed(".csv")),
    ".parq": _renamed(".parquet"),
    ".feather": _renamed(".arrow"),
    **dict.fromkeys((".text", ".log"), _renamed(".txt")),
}
_SEEN = "Only text can be learned: of a scanned page, give what a program for OCR reads in it."
_HEARD = "Only text can be learned: give what is said in it, written down."
MEDIA = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic"), _SEEN),
    **dict.fromkeys((".mp3", ".wav", ".m4a", ".flac", ".ogg", ".opus", ".mp4", ".mov", ".mkv", ".webm"), _HEARD),
}
OTHERWISE = "If it is text, copy it to a file that ends in .txt."
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # after any of them, to what pyarrow calls it
ZIP = ".zip"  # whose list is read at once
ARCHIVES = (ZIP, ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
READABLE = f"Readable: {', '.join(KINDS)}, also inside {', '.join((*PACKED, *ARCHIVES[:-1]))} and {ARCHIVES[-1]}."


def ending_of(name: str) -> str:
    """The kind of content, whether packed or not."""
    path = PurePath(name)
    return PurePath(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


def is_record_file(name: str) -> bool:
    """Whether a file contains records rather than running text."""
    kind = KINDS.get(ending_of(name))
    return kind is not None and not kind.prose


def is_prose(name: str) -> bool:
    """Whether a file contains running text, which is cut into documents."""
    kind = KINDS.get(ending_of(name))
    return kind is not None and kind.prose


def can_be_read(name: str) -> bool:
    return ending_of(name) in KINDS or is_archive(name)


def is_zip(path: PurePath) -> bool:
    return path.suffix.lower() == ZIP


def is_archive(name: str) -> bool:
    """Whether there are files inside."""
    return name.lower().endswith(ARCHIVES)


def converted(name: str) -> str:
    """What to do with a file that cannot be read, and what can be."""
    return f"{(CONVERTED | MEDIA).get(ending_of(name), OTHERWISE)} {READABLE}"
