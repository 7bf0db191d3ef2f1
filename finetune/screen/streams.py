"""The program's three streams: open, and never the reason why a run ends.

    outlast()              # once, at the door
    print("...")           # into a pipe whose reader left: nothing happens
    unwritten()            # the OSError of the last words to stdout, or None

A reader that leaves (`| head`), a terminal that is gone and a full disk lose words, not work.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import IO, Any

READER_LEFT = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # EIO: of a terminal
STREAMS = {"stdout": 1, "stderr": 2}

_lost: dict[str, OSError] = {}


class _Lasting(io.RawIOBase):
    """Writes to a file; what cannot be written is dropped, and the reason kept."""

    def __init__(self, descriptor: int, name: str, *, closes: bool) -> None:
        self._raw: Any = open(descriptor, "wb", buffering=0, closefd=closes)  # noqa: SIM115  on Windows maybe the class of its console
        self.name, self.mode = name, "wb"

    def write(self, data: Any) -> int | None:
        try:
            written: int | None = self._raw.write(data)
        except OSError as error:
            _lost[self.name] = error
            return len(data)
        _lost.pop(self.name, None)
        return written

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def close(self) -> None:
        super().close()
        self._raw.close()


def lasting(descriptor: int, name: str, encoding: str | None, errors: str = "replace", *, closes: bool = False) -> IO[str]:
    """A text stream on a descriptor of stdout or stderr that drops what cannot be written, and replaces what its encoding lacks."""
    raw = io.BufferedWriter(_Lasting(descriptor, name, closes=closes))
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, line_buffering=True)


def unwritten() -> OSError | None:
    """Why the last words to stdout were lost; None for a reader that left, who has what it wanted."""
    sys.stdout.flush()
    error = _lost.get("stdout")
    return error if error is not None and error.errno not in READER_LEFT else None


def outlast() -> None:
    """Open those of stdin, stdout and stderr that are closed, on nothing, and make both outputs lasting.

    What the encoding of a stream lacks is replaced in it, so that one character loses neither input nor output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)  # mostly gets the lowest number that is free: this one
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for name, descriptor in STREAMS.items():
        before = getattr(sys, name)
        encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "strict")
        setattr(sys, name, lasting(descriptor, name, encoding, "replace" if errors == "strict" else errors))
