"""Python's own parser, for programs that others wrote.

tree = parsed(text)         # ast.parse, also while another thread parses
"""

from __future__ import annotations

import ast
import time
from contextlib import suppress

TRIES = 20  # of a text that another thread disturbs


def parsed(text: str) -> ast.Module:
    """Raises SyntaxError. Python 3.11 adds up the depths of all threads that parse at once, and may take a good text for an error."""
    for _ in range(TRIES):
        with suppress(SystemError):
            return ast.parse(text)
        time.sleep(0.01)  # the wizard imports torch, which parses too, beside this
    return ast.parse(text)
