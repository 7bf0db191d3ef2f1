"""Paths as typed by a person: what keeps one from being accessed becomes one sentence.

folder = typed_path("~/models/mine")       # raises BadInput for the home folder of an unknown user
with looking_at(folder):
    folder.is_file()                       # raises BadInput if a folder above it cannot be entered, or the name is too long
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import BadInput
from finetune.foreign import is_utf8, printable


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


@contextmanager
def looking_at(path: str | Path, kind: type[BadInput] = BadInput) -> Iterator[None]:
    """Raises `kind` if the path cannot be accessed."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be accessed: {error.strerror or error}.", hint="Check the path and its permissions.") from None
