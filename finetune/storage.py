"""Folders of the cache: named after what decides their content, complete or absent.

with new_folder(cache / f"rows-{digest(parts)}") as unfinished:
    (unfinished / "rows.arrow").write_bytes(...)
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import HardwareError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class new_folder:
    """A folder that appears under its name complete or not at all; another process may win the race to make it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.unfinished = Path(tempfile.mkdtemp(prefix=f".{self.target.name}-", dir=self.target.parent))
        except OSError as error:
            raise self._no_room(error) from None
        return self.unfinished

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and not self.target.exists():
            try:
                os.replace(self.unfinished, self.target)
            except OSError:
                if not self.target.is_dir():
                    raise
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise self._no_room(error) from None

    def _no_room(self, error: OSError) -> HardwareError:
        what = "is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror or error})"
        return HardwareError(
            f"The cache folder {self.target.parent} {what}.", hint="Make room, or name another folder in FINETUNE_CLI_CACHE."
        )
