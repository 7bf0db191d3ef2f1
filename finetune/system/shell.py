"""Words of commands that a person copies into the shell that is there: a POSIX shell, or Windows' cmd or PowerShell.

quoted("out dir")           # 'out dir', or "out dir" in cmd
joined(["hf", "auth", "login"])
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from functools import lru_cache

# What no shell reads as anything else, beside letters and digits.
PLAIN = {"posix": r"[\w@%+=:,./-]+", "cmd": r"[\w@+=:./\\-]+", "powershell": r"[\w+=:./\\-]+", "pwsh": r"[\w+=:./\\-]+"}
SINGLE = "'\u2018\u2019\u201a\u201b"  # PowerShell ends a text at any of them


def quoted(part: object) -> str:
    """A path or a setting as one word of a command: `out dir` is `'out dir'`."""
    text, shell = str(part), shell_name()
    if re.fullmatch(PLAIN[shell], text):
        return text
    if shell == "posix":
        return shlex.quote(text)
    if shell == "pwsh":
        return _single(text)
    # These two hand a program one line, which it splits itself: backslashes before a quote count double.
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    text = re.sub(r"(\\+)$", r"\1\1", text) if shell == "cmd" or " " in text else text
    if shell == "powershell":
        return _single(text)
    # Inside quotes cmd leaves alone everything but %: a caret outside of them keeps it from naming a variable.
    return f'"{text}"'.replace("%", '"^%"')


def joined(parts: Iterable[object]) -> str:
    """A command of these words."""
    return " ".join(map(quoted, parts))


@lru_cache(maxsize=1)
def shell_name() -> str:
    """ "posix", "cmd", "powershell" (Windows PowerShell) or "pwsh" (PowerShell 7), by the processes that this one was started from."""
    if os.name != "nt":
        return "posix"
    if os.environ.get("MSYSTEM"):  # Git Bash and its relatives
        return "posix"
    import psutil

    try:
        names = [parent.name().lower().removesuffix(".exe") for parent in psutil.Process().parents()]
    except psutil.Error:
        names = []
    return next((name for name in names if name in PLAIN), "powershell")


def _single(text: str) -> str:
    return "'" + re.sub(f"([{SINGLE}])", r"\1\1", text) + "'"
