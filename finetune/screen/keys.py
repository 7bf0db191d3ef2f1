"""Keys pressed between questions are kept for the next question instead of being echoed on the screen.

with still_keys():
    ...                 # no echo; Ctrl-C still interrupts
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import termios
except ImportError:  # Windows, whose console echoes nothing between questions
    termios = None  # type: ignore[assignment]


@contextmanager
def still_keys() -> Iterator[None]:
    """Turn the terminal's echo and line editing off for a while, if stdin is one."""
    if termios is None:
        yield
        return
    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (OSError, ValueError, termios.error):  # a pipe, or no stdin at all
        yield
        return
    changed = termios.tcgetattr(sys.stdin.fileno())
    changed[0] &= ~termios.ICRNL
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        with suppress(OSError, ValueError, termios.error):  # the terminal may be gone
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
