"""The files inside a .zip, read where they are: nothing is unpacked to the disk, so that their names can lead nowhere.

members(Path("export.zip")), opened(Path("export.zip"), "conversations.json").read()
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from finetune.data.endings import READABLE
from finetune.errors import BadRow, EmptyDataset
from finetune.foreign import reading

ENCRYPTED = 1  # of a file's flags
UNSEEN = (".", "~$")  # begin the names of hidden files, and of those by which Word and Excel lock what is open


def members(path: Path) -> list[str]:
    """The names of the files that are not hidden, in their order; raises BadRow and EmptyDataset."""
    with reading(path.name, BadRow):
        try:
            listed = [info for info in _archive(path).infolist() if not info.is_dir()]
        except zipfile.BadZipFile:
            raise BadRow(f"{path.name} is not a complete .zip file.", hint="It may be incomplete: copy or download it again.") from None
    found = sorted((info for info in listed if not _is_hidden(info.filename)), key=lambda info: info.filename)
    if not found:
        raise EmptyDataset(f"{path.name} contains no files.", hint=READABLE)
    if any(info.flag_bits & ENCRYPTED for info in found):
        raise BadRow(f"{path.name} is protected by a password.", hint="Unpack it, and give the folder.")
    return [info.filename for info in found]


def opened(path: Path, member: str) -> IO[bytes]:
    """A file inside, unpacked while it is read."""
    return _archive(path).open(member)


def _archive(path: Path) -> zipfile.ZipFile:
    about = path.stat()
    return _directory(path.absolute(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4)  # reading the list of thousands of files again for each of them would take minutes
def _directory(path: Path, size: int, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(UNSEEN) and part != ".." for part in parts) or parts[:1] in ((), ("__MACOSX",))  # of Finder
