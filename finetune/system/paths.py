"""Paths as typed by a person: what keeps one from being accessed becomes one sentence.

folder = typed_path("~/models/mine")       # raises BadInput for the home folder of an unknown user
with looking_at(folder):
    folder.is_file()                       # raises BadInput if a folder above it cannot be entered, or the name is too long
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import BadInput
from finetune.foreign import is_utf8, printable

NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP, errno.EINVAL}  # EINVAL: a name that Windows does not allow


def typed_path(text: str | Path, kind: type[BadInput] = BadInput) -> Path:
    """`text` with ~ and ~user replaced by their homes; raises `kind` where that cannot be."""
    if "\0" in str(text):
        raise kind(f"{text} is not a valid path.", hint="Remove the control character.")
    if not is_utf8(text):
        raise kind(f"{printable(text)} is not valid UTF-8.", hint="Rename it.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise kind(f"{text} is in the home folder of an unknown user.", hint="Write the full path.") from None


def check_access(path: str | Path, kind: type[BadInput] = BadInput) -> None:
    """Raises `kind` if nobody could look whether the path is there; from Python 3.14 on exists() and its like say no then."""
    with accessing(path, kind):
        try:
            os.stat(os.path.expanduser(path))
        except ValueError:  # not a path
            return
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise


@contextmanager
def looking_at(path: str | Path, kind: type[BadInput] = BadInput) -> Iterator[None]:
    """Raises `kind` if the path cannot be accessed."""
    check_access(path, kind)
    with accessing(path, kind):
        yield


@contextmanager
def accessing(source: str | Path, kind: type[BadInput] = BadInput) -> Iterator[None]:
    """Raises `kind` for what fails meanwhile on the disk; `source` is one path or several."""
    try:
        yield
    except OSError as error:
        raise kind(f"{source} cannot be accessed: {error.strerror or error}.", hint="Check the path and its permissions.") from None
