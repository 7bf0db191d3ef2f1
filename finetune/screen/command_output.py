"""What a command shows: facts as JSON for programs, or pictures for people.

show(arguments, {"rows": 450}, Text("450 rows"))        # 0
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

ROWS = (
    "examples",
    "generations",
    "system_prompt",
    "opening",
    "tools",
)  # keys of data_report.json and benchmark.json: text of rows


def console_of(arguments: argparse.Namespace) -> Console:
    """Where words for people go: stderr while stdout belongs to --json."""
    from finetune.screen.console import people

    return people(stderr=arguments.json)


def show(arguments: argparse.Namespace, facts: dict[str, Any], *pictures: RenderableType) -> int:
    """JSON on stdout with --json, else the pictures; off a terminal lines of text are kept in one piece.

    What is printed as JSON ends in logs that others read: text of the person's rows is only in it with --examples.
    """
    from rich.text import Text

    if arguments.json:
        print(json.dumps(facts if getattr(arguments, "examples", False) else _without_rows(facts), default=str))
    else:
        console = console_of(arguments)
        for picture in pictures:
            console.print(picture, soft_wrap=isinstance(picture, str | Text) and not console.is_terminal)
    return 0


def _without_rows(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {key: _without_rows(value) for key, value in facts.items() if key not in ROWS}
    return [_without_rows(value) for value in facts] if isinstance(facts, list) else facts
