"""The files inside an archive, read where they are: nothing is unpacked to the disk, so that their names can lead nowhere.

members(Path("export.zip")), opened(Path("export.zip"), "conversations.json").read()
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from finetune.data.endings import READABLE, is_zip
from finetune.errors import BadRow, EmptyDataset
from finetune.foreign import LINE, PACKING, UNPACKED, reading
from finetune.formatting import size

ENCRYPTED = 1  # of a file's flags
UNSEEN = (".", "~$")  # begin the names of hidden files, and of those by which Word and Excel lock what is open
FILES = 100_000  # in a .tar, whose list is all over it
UNPACK = "Unpack it, and give the folder."
BROKEN = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)  # what unpacking may raise


def members(path: Path) -> list[str]:
    """The names of the files that are not hidden, in a fixed order; raises BadRow and EmptyDataset."""
    with reading(path.name, BadRow):
        try:
            archive = _archive(path)
        except BROKEN as error:
            if getattr(error, "errno", None) is not None:
                raise  # it is the file that cannot be opened
            kind = ".zip" if is_zip(path) else ".tar"
            hint = "It may be incomplete: copy or download it again."
            raise BadRow(f"{path.name} is not a complete {kind} file.", hint=hint) from None
    found = [name for name in archive.names() if not _is_hidden(name)]
    if not found:
        raise EmptyDataset(f"{path.name} contains no files.", hint=READABLE)
    if archive.is_encrypted(found):
        raise BadRow(f"{path.name} is protected by a password.", hint=UNPACK)
    return found


def opened(path: Path, member: str) -> IO[bytes]:
    """A file inside, unpacked while it is read."""
    return _archive(path).open(member)


UNPACKERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class _Zip:
    def __init__(self, path: Path) -> None:
        self.file = zipfile.ZipFile(path)

    def names(self) -> list[str]:
        return sorted(info.filename for info in self.file.infolist() if not info.is_dir())

    def is_encrypted(self, names: list[str]) -> bool:
        return any(self.file.getinfo(name).flag_bits & ENCRYPTED for name in names)

    def open(self, member: str) -> IO[bytes]:
        return self.file.open(member)


class _Tar:
    """Names in the order of the archive: a step back would unpack it again from its beginning."""

    def __init__(self, path: Path) -> None:
        self.file = tarfile.TarFile(fileobj=cast(Any, _Limited(UNPACKERS.get(path.suffix.lower(), open)(path, "rb"))))
        most = max(UNPACKED, PACKING * path.stat().st_size)
        self.found: dict[str, tarfile.TarInfo] = {}
        for number, info in enumerate(self.file):
            if number >= FILES or info.offset_data + info.size > most:
                much = f"has more than {FILES:,} files" if number >= FILES else f"unpacks to more than {size(most)}"
                raise BadRow(f"{path.name} {much}.", hint=UNPACK)
            if info.isreg() and not info.issparse():
                self.found[str(PurePosixPath(info.name))] = info

    def names(self) -> list[str]:
        return list(self.found)

    def is_encrypted(self, names: list[str]) -> bool:
        return False

    def open(self, member: str) -> IO[bytes]:
        return cast(IO[bytes], self.file.extractfile(self.found[member]))


class _Limited:
    """A file that gives no more than a line at once: what a .tar says of its files may claim to be of any length."""

    def __init__(self, file: Any) -> None:
        self.file, self.mode = file, "rb"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int) -> bytes:
        if size > LINE:
            raise tarfile.ReadError("a name is too long")
        return cast(bytes, self.file.read(size))


def _archive(path: Path) -> _Zip | _Tar:
    about = path.stat()
    return _directory(path.absolute(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4)  # reading the list of thousands of files again for each of them would take minutes
def _directory(path: Path, size: int, changed: int) -> _Zip | _Tar:
    return _Zip(path) if is_zip(path) else _Tar(path)


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(UNSEEN) and part != ".." for part in parts) or parts[:1] in ((), ("__MACOSX",))  # of Finder
