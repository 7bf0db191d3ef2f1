"""What the screen says of times, shares and commands: `duration(84)` is "1:24"."""

from __future__ import annotations

import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from finetune.formatting import strip_control_chars
from finetune.system.shell import quoted


def duration(seconds: float) -> str:
    """Clock style: 0:08, 1:24, 2:03:10."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def briefly(seconds: float) -> str:
    """Of one stage among others: "40 s", "6 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def about(seconds: float) -> str:
    """A forecast, no more precise than it is."""
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5)} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def command_name() -> str:
    """The command this program was started with."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" and started.parent.name == "finetune":
        return "python -m finetune"
    return f"python {quoted(sys.argv[0])}" if started.name == "finetune_cli.py" else "finetune-cli"


PROGRAM = (
    r"(?:finetune-cli [a-z-]|(?:[^\s`]*/)?python[\d.]* (?:-m |[^\s`]+\.py)"
    r"|(?:uv )?pip install|pipx inject|hf auth|git lfs|vllm serve|lm-eval ls)"
)
COMMAND = re.compile(rf"(?<![\w/.-])(?:`{PROGRAM}[^`]*`\S*|{PROGRAM}.*)")  # up to the end of the line, or in backticks
WORD = re.compile(r"\s*(?:\S*\d (?:%|[kMG]B|s|min|h)(?!\w)\S*|\S+)\s*")  # a number keeps its unit


def command_in(line: str) -> tuple[int, int]:
    """Where a command begins and ends in a line; both its length if there is none."""
    found = COMMAND.search(line)
    return found.span() if found else (len(line), len(line))


def breaks(line: str, width: int) -> list[int]:
    """Where a line is broken so that its parts have the width: between words, of which a command is one, to be copied in one piece."""
    from rich.cells import cell_len  # of wide letters; where nothing is drawn rich is not needed

    begins, ends = command_in(line)
    words = [(word.start(), word.group()) for part in ((0, begins), (ends, len(line))) for word in WORD.finditer(line, *part)]
    if ends > begins:
        words = sorted([*words, (begins, line[begins:ends])])
    found, used = list[int](), 0
    for start, word in words:
        if used and used + cell_len(word.rstrip()) > width:
            found.append(start)
            used = 0
        used += cell_len(word)
    return found


def at_breaks(line: str, width: int) -> list[str]:
    """The parts of a line."""
    ends = [0, *breaks(line, width), len(line)]
    return [line[start:end].strip() for start, end in pairwise(ends)]


def as_typed(text: str) -> str:
    """Commands in a hint of the engine, as this person would type them."""
    text = re.sub(r"(python finetune_cli\.py|finetune-cli)(?= |$)", lambda _: command_name(), text)
    return for_this_python(text)


def for_this_python(text: str) -> str:
    """A sentence in which what is missing is installed by what installs for this Python."""
    return re.sub(r"\bpip install\b", lambda _: installing(), text)


def installing() -> str:
    """What installs for this Python: uv and pipx give it no pip of its own, and the one on the PATH is another's."""
    import shutil
    from importlib.util import find_spec

    pip, python = shutil.which("pip"), shutil.which("python")
    if pip and Path(pip).parent == Path(sys.executable).parent:
        return "pip install"
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return "pipx inject finetune-wizard"
    if find_spec("pip") is None:
        return f"uv pip install --python {quoted(sys.executable)}"
    return f"{'python' if python == sys.executable else quoted(sys.executable)} -m pip install"


def setting(value: Any) -> str:
    """A value of a recipe, as a recipe has it."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return strip_control_chars(", ".join(map(str, value)))
    return strip_control_chars(str(value).lower() if isinstance(value, bool) else str(value))
