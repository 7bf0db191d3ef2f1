"""A talk with a finished model on the terminal, or line by line through a pipe.

talk(folder.output_dir, RuntimeOptions())
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from finetune.runtime import RuntimeOptions
from finetune.screen.console import no_colour, people
from finetune.screen.quiet import quiet
from finetune.screen.words import harmless

PROMPT = "> "


def talk(output_dir: Path, runtime: RuntimeOptions) -> None:
    """Load the model, then ask and answer until /exit."""
    console = people()
    ask = _typed(console) if sys.stdin.isatty() and console.is_terminal else sys.stdin.readline
    waiting = True

    def question() -> str:
        nonlocal waiting
        if waiting:
            console.print("[quiet]Type a message. /exit or Ctrl-C ends the talk; Ctrl-C during an answer ends the answer.[/quiet]")
            waiting = False
        message = ask()
        if not message:
            raise EOFError
        return message

    console.print("[quiet]Loading the model ...[/quiet]")
    with quiet(None):
        from finetune.chat import chat

        chat(output_dir, runtime, question, lambda piece: _write(console, piece))


def _typed(console: Console) -> Callable[[], str]:
    """A line with history and editing, drawn on the console's own copy of the terminal."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import ColorDepth, create_output

    output = create_output(console.file)  # type: ignore[arg-type]
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False
    session: PromptSession[str] = PromptSession(output=output, color_depth=ColorDepth.DEPTH_1_BIT if no_colour() else None)
    return lambda: session.prompt(PROMPT) + "\n"


def _write(console: Console, piece: str) -> None:
    """As it is: a model's words are no markup."""
    console.file.write(harmless(piece))
    console.file.flush()
