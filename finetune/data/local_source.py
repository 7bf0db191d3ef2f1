"""Files on this machine as a source of rows.

open_local(DatasetSpec(source="rows.jsonl")).encodings  ->  ["utf-8"]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from finetune.data.encoding import detect, has_sign_inside, words_beyond_ascii
from finetune.data.files import SHOWN_FILES, DataFile, find_files, listed
from finetune.data.readers import read_file
from finetune.data.rows import OLDER_PAGES, Origin, Row, SkippedRow
from finetune.errors import BadRow, EmptyDataset
from finetune.foreign import reading
from finetune.recipe import DatasetSpec
from finetune.system.storage import file_hash

POINTER = b"version https://git-lfs.github.com/"


def open_local(spec: DatasetSpec, *, strict_split: bool = False, measured: str | None = None) -> Origin:
    """The records of local files; the split that is `measured` on is left out. Raises the DatasetError that states what is wrong."""
    files, notes = find_files(spec.source, spec.data_files, spec.split, strict_split=strict_split, measured=measured)
    for file in files:
        with reading(file.name, BadRow):
            _check_content(file)
    encodings: dict[DataFile, str | None] = {}
    for file in files:
        with reading(file.name, BadRow):
            encodings[file] = detect(file, spec.encoding) if file.kind.text else None
    unusual = {file: encoding for file, encoding in encodings.items() if encoding is not None and encoding not in ("utf-8", "utf-8-sig")}
    for encoding in sorted(set(unusual.values())):
        so_read = [file for file in unusual if unusual[file] == encoding]
        verb = "are" if len(so_read) > 1 else "is"
        with reading(so_read[0].name, BadRow):
            words = words_beyond_ascii(so_read[0], encoding)
        names = f"NAME{OLDER_PAGES if any(map(has_sign_inside, words)) else ''}"
        other = f" To correct wrong letters: --set dataset.encoding={names}" if spec.encoding is None else ""
        such = f", with words such as {', '.join(words)}" if words else ""
        notes.append(f"{listed(so_read)} {verb} read as {encoding}{such}.{other}")
    prose = any(file.kind.prose for file in files)

    def records() -> Iterator[Row | SkippedRow]:
        for file in files:
            for row in read_file(file, spec, encodings[file]):
                if file.remarks:
                    notes.extend(remark for remark in file.remarks if remark not in notes)
                yield row

    def fingerprint() -> list[str]:
        return [
            *(_content_hash(path) for path in dict.fromkeys(file.path for file in files)),
            *(f"{file.member}{file.suffix}{file.kind.version}" for file in files),
            *([str(spec.max_length), spec.text_as] if prose else []),  # they decide where prose is cut
            str(spec.encoding),
            *unusual.values(),  # what is guessed may change with the version
            spec.split,
        ]

    name = ", ".join(file.name for file in files[:SHOWN_FILES]) + (" ..." if len(files) > SHOWN_FILES else "")
    told = list(dict.fromkeys(encoding for encoding in encodings.values() if encoding is not None))
    called, cut = [file.name for file in files], prose and spec.text_as == "auto"
    return Origin(name, fingerprint, records, notes=notes, encodings=told, prose=prose, cut=cut, files=called)


def _check_content(file: DataFile) -> None:
    size = file.path.stat().st_size
    if size == 0:
        raise EmptyDataset(f"{file.name} is empty.", hint="Give a file with at least two rows.")
    if size < 1000 and next(file.blocks(), b"").startswith(POINTER):
        raise EmptyDataset(f"{file.name} is a Git LFS pointer, not the data.", hint="Fetch the data: git lfs pull")


def _content_hash(path: Path) -> str:
    try:
        return file_hash(path, hashlib.blake2b(digest_size=16))
    except OSError as error:
        raise BadRow(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from None
