"""Paths as people type them: what stops a look at one ends in a sentence.

folder = typed_path("~/models/mine")       # raises BadInput for the home of a user who is not known here
with looking_at(folder):
    folder.is_file()                       # raises BadInput where a folder above it may not be entered, or the name is too long
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import BadInput


def typed_path(text: str | Path, kind: type[BadInput] = BadInput) -> Path:
    """`text` with ~ and ~user replaced by their homes; raises `kind` where that cannot be."""
    if "\0" in str(text):
        raise kind(f"{text} cannot be a path.", hint="Leave out the letter that is not printed.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise kind(f"{text} is in the home of a user who is not known here.", hint="Write the whole path.") from None


@contextmanager
def looking_at(path: str | Path, kind: type[BadInput] = BadInput) -> Iterator[None]:
    """Raises `kind` if the system does not let us look."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be looked at: {error.strerror or error}.", hint="Check the path and its permissions.") from None
