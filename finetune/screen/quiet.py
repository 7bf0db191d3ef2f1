"""Library noise into a file: progress bars of loaders, warnings, logging, and what C code prints.

    with quiet(folder.debug_log):
        tuner.run()

The file descriptors themselves are redirected; a console from screen/console.py, made before, still reaches the terminal.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STDOUT, STDERR = 1, 2


@contextmanager
def quiet(log: Path | None, streams: tuple[int, ...] = (STDOUT, STDERR)) -> Iterator[None]:
    """Redirect `streams` into `log` (nowhere if None); a failure leaves its traceback there.

    If the run never began (no run/recipe.yaml beside the log), the log and the folders made for it are removed again.
    """
    _flush()
    kept = {stream: os.dup(stream) for stream in streams}
    made = _make_folders(log.parent) if log else []
    with (log or Path(os.devnull)).open("a", encoding="utf-8") as file:
        for stream in streams:
            os.dup2(file.fileno(), stream)
        try:
            yield
        except BaseException:
            traceback.print_exc(file=file)
            raise
        finally:
            _flush()
            for stream, copy in kept.items():
                os.dup2(copy, stream)
                os.close(copy)
            if log and not log.with_name("recipe.yaml").exists():
                _remove(log, made)


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` and return what had to be made, deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(log: Path, folders: list[Path]) -> None:
    log.unlink(missing_ok=True)
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
