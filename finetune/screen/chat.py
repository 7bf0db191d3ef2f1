"""A chat with a finished model on the terminal, or line by line through a pipe.

talk(folder.output_dir, RuntimeOptions())
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from finetune.formatting import strip_control_chars
from finetune.runtime import RuntimeOptions
from finetune.screen.console import no_colour, people
from finetune.screen.quiet import quiet

PROMPT = "> "
HELP = (
    "Type a message. /both makes the model it came from answer too, /new starts a new chat, /help lists all commands. "
    "/exit or Ctrl-C ends the chat; Ctrl-C during an answer stops that answer."
)
COLUMNS = 60  # of the terminal; with fewer, one of two answers stands below the other


def talk(output_dir: Path, runtime: RuntimeOptions, *, both: bool = False) -> None:
    """Load the model, then ask and answer until /exit; with `both` next to the model it came from."""
    console = people()
    ask = _typed(console) if sys.stdin.isatty() and console.is_terminal else sys.stdin.readline
    waiting = True

    def question() -> str:
        nonlocal waiting
        if waiting:
            console.print(HELP, style="quiet")
            waiting = False
        try:
            message = ask()
        except OSError:  # of a terminal that is gone
            message = ""
        if not message:
            raise EOFError
        return message

    console.print("Loading the model ...", style="quiet")
    columns = console.is_terminal and console.width >= COLUMNS
    sides: SideBySide | OneBelowTheOther = SideBySide(console) if columns else OneBelowTheOther(console)
    with quiet(None):
        from finetune.run.chat import chat

        say = partial(console.print, style="quiet")
        chat(output_dir, runtime, question, sides.show, both=both, side=sides.turn, say=say)


class OneBelowTheOther:
    """Answers as they come, each of two under its name."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.named = False

    def turn(self, name: str) -> None:
        if self.named:
            self.console.print()
        self.named = bool(name)
        if name:
            self.console.print(strip_control_chars(name), style="quiet")

    def show(self, piece: str) -> None:
        """As it is: a model's words are no markup."""
        self.console.file.write(strip_control_chars(piece))
        self.console.file.flush()


class SideBySide(OneBelowTheOther):
    """Two answers in two columns, drawn again as they grow; one alone as it comes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.said: dict[str, Text] = {}
        self.live: Live | None = None
        self.complete = False

    def turn(self, name: str) -> None:
        if not name and self.live:
            self.complete = True
            self._draw()
            self.live.stop()
            self.live, self.said, self.complete = None, {}, False
            return
        self.said[name] = Text()
        if self.live is None:
            self.live = Live(console=self.console, refresh_per_second=10, redirect_stdout=False, redirect_stderr=False)
            self.live.start()
        self._draw()

    def show(self, piece: str) -> None:
        if self.live is None:
            super().show(piece)
            return
        list(self.said.values())[-1].append(strip_control_chars(piece))
        self._draw()

    def _draw(self) -> None:
        table = Table.grid(padding=(0, 3, 0, 0), expand=True)
        for _ in range(2):
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(Text(strip_control_chars(name), style="quiet") for name in self.said))
        table.add_row(*self.said.values())
        assert self.live is not None
        self.live.update(table if self.complete else Newest(table))


class Newest:
    """As much of the end of a picture as the screen has room for: what is being said is never below its edge."""

    def __init__(self, picture: Table) -> None:
        self.picture = picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.picture, options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def _typed(console: Console) -> Callable[[], str]:
    """A line with history and editing, drawn on the console's own copy of the terminal."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import ColorDepth, create_output

    output = create_output(console.file)  # type: ignore[arg-type]
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False
    depth = ColorDepth.DEPTH_1_BIT if no_colour() else None
    session: PromptSession[str] = PromptSession(output=output, color_depth=depth, enable_suspend=True)
    return lambda: session.prompt(PROMPT) + "\n"
