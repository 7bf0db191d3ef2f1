"""Redirects library output to a file: progress bars of loaders, warnings, logging, and what C code prints.

    with quiet(folder.debug_log):
        tuner.run()

The file descriptors themselves are redirected; a console from screen/console.py, made before, still reaches the terminal. Passwords and
tokens that a library wrote down are hidden at the end.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from finetune.errors import without_secrets
from finetune.foreign import no_link

STDOUT, STDERR = 1, 2


@contextmanager
def quiet(log: Path | None, streams: tuple[int, ...] = (STDOUT, STDERR)) -> Iterator[None]:
    """Redirect `streams` into `log`, the debug.log of a run (nowhere if None); a failure leaves its traceback there.

    If the run never began (no run/recipe.yaml next to the log), the log and the folders made for it are removed again.
    Raises BadInput if the folder of the run cannot be made or written to.
    """
    made, opened = _opened(log) if log else ([], open(os.devnull, "a", encoding="utf-8"))  # noqa: SIM115  closed below
    _flush()
    kept = {stream: os.dup(stream) for stream in streams}
    try:
        with opened as file:
            for stream in streams:
                os.dup2(file.fileno(), stream)
            try:
                yield
            except BaseException:
                with suppress(OSError):  # the disk may be full
                    os.write(file.fileno(), traceback.format_exc().encode(errors="backslashreplace"))
                raise
            finally:
                _flush()
                for stream, copy in kept.items():
                    os.dup2(copy, stream)
                    os.close(copy)
    finally:
        if log and not log.with_name("recipe.yaml").exists():
            _remove(log, made)
        elif log:
            with suppress(OSError):  # gone, or on a disk that is full
                _hide_secrets(log)


def _opened(log: Path) -> tuple[list[Path], TextIO]:
    """The folders that had to be made for the log, deepest first, and the log."""
    try:
        missing = [path for path in (log.parent, *log.parent.parents) if not path.exists()]
        log.parent.mkdir(parents=True, exist_ok=True)
        return missing, open(log, "a", encoding="utf-8", opener=no_link)
    except OSError as error:
        from finetune.run_folder import cannot_be_made

        raise cannot_be_made(log.parents[1], error.strerror or error) from None


def _hide_secrets(log: Path) -> None:
    """In place: what is hidden never makes a line longer. All of it, for a run that was killed has hidden nothing."""

    def hidden(line: bytes) -> bytes:
        return without_secrets(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    with log.open("rb") as lines, open(log, "r+b", opener=no_link) as file:
        if all(hidden(line) == line for line in lines):
            return
        lines.seek(0)
        for line in lines:
            file.write(hidden(line))
        file.truncate()


def _remove(log: Path, folders: list[Path]) -> None:
    log.unlink(missing_ok=True)
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
