"""The engine's events on a terminal: one live line while a stage runs, one finished line when it is over.

    with working(console) as reporter:
        LLMFineTuner(recipe, reporter=reporter).run()

Off a terminal the same facts come as a plain line every few seconds, later every few minutes, on stderr.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finetune.events import Event, HeldOutLoss, Notice, Planned, Progress, Reporter, StageFinished, StageStarted, TrainingStep
from finetune.formatting import count, size, strip_control_chars
from finetune.screen.console import AS_IT_IS, people
from finetune.screen.quiet import quiet
from finetune.screen.tables import Pairs
from finetune.screen.wording import duration
from finetune.system.stopping import no_interrupt_lost

REFRESHES_PER_SECOND = 4  # each takes a moment from the training on a small machine
SECONDS_BETWEEN_LINES = 5.0
SHARE_BETWEEN_LINES = 0.05  # of the time that a stage has taken: an hour makes a hundred lines and not seven hundred
WIDEST_LINE = 100  # the eye loses a line that is wider
STARTING = "Starting"


@contextmanager
def working(console: Console, brief: str | None = None, log: Path | None = None) -> Iterator[Reporter]:
    """The reporter that suits the console; what libraries print goes to `log`, or nowhere.

    With `brief` there is only a live line of that name, which leaves nothing behind. An interrupt that a library swallows ends the work
    at its next event.
    """
    with no_interrupt_lost() as check, _drawn(console, brief, log) as reporter:
        yield Checked(reporter, check)


class Checked:
    """A reporter that looks for a lost interrupt at each event."""

    def __init__(self, reporter: Reporter, check: Callable[[], None]) -> None:
        self._reporter = reporter
        self._check = check

    def report(self, event: Event) -> None:
        if threading.current_thread() is threading.main_thread():
            self._check()
        self._reporter.report(event)


@contextmanager
def _drawn(console: Console, brief: str | None, log: Path | None) -> Iterator[Reporter]:
    if not console.is_terminal:
        plain = PlainReporter(console if console.file.isatty() else people(stderr=True), plans=False)  # PlanScreen draws them
        if brief or console.file.isatty():
            plain.say(f"{brief or STARTING} ...")
        with quiet(log):
            yield plain
        return
    reporter = RichReporter(console, brief)
    with reporter.live, quiet(log):
        reporter.live.refresh()  # now, not at the first tick: imports may keep its thread waiting for seconds
        yield reporter


class RichReporter:
    """Draws the newest event of each running stage on a live line."""

    def __init__(self, console: Console, brief: str | None = None) -> None:
        self._console = console
        self._brief = brief
        self._waiting = brief or STARTING  # until the first event: what reports them may still be imported
        self._began = time.monotonic()
        self._running: dict[str, tuple[str, float]] = {}  # by stage: its title, and when it began
        self._facts: dict[str, Event] = {}
        self._held_out: HeldOutLoss | None = None
        ascii_only = console.options.ascii_only
        self._done, self._separator = ("*", " | ") if ascii_only else ("✓", " · ")
        self._spinner = Spinner("line" if ascii_only else "dots", style="cyan")
        self.live = Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def report(self, event: Event) -> None:
        self._waiting = self._brief or ""
        if isinstance(event, StageStarted):
            self._running[event.stage] = event.title, time.monotonic()
        elif isinstance(event, StageFinished):
            title, _ = self._running.pop(event.stage, (event.stage, 0.0))
            self._facts.pop(event.stage, None)
            if not self._brief:
                self._console.print(self._finished(title, event), width=min(self._console.width, WIDEST_LINE))
        elif isinstance(event, TrainingStep):
            self._facts["training"] = event
        elif isinstance(event, HeldOutLoss):
            self._held_out = event
        elif isinstance(event, Progress):
            self._facts[event.stage] = event
        elif isinstance(event, Notice) and not self._brief:
            self._console.print(self._said(event), width=min(self._console.width, WIDEST_LINE))

    def _said(self, event: Notice) -> RenderableType:
        style, mark = ("warning", "!") if event.level == "warning" else ("quiet", " ")
        return Pairs([(Text(mark, style=style), Text(strip_control_chars(event.text), style=style))], gap=1)

    def _finished(self, title: str, event: StageFinished) -> RenderableType:
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=1)
        line.add_column(ratio=1, overflow="fold")
        line.add_column(justify="right", no_wrap=True)
        text = Text(title)
        if event.summary:
            text.append(f"  {strip_control_chars(event.summary)}", style="quiet")
        line.add_row(Text(self._done, style="done"), text, Text(_seconds(event.seconds), style="quiet"))
        return line

    def _picture(self) -> RenderableType:
        if self._running:
            stage, (title, since) = list(self._running.items())[-1]
            return self._live_line(self._brief or title, self._facts.get(stage), since)
        return self._live_line(self._waiting, None, self._began) if self._waiting else Group()

    def _live_line(self, title: str, fact: Event | None, since: float) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=1)
        line.add_column()
        parts = facts(fact, self._held_out) if fact else [duration(time.monotonic() - since)]
        share = _share(fact)
        width = self._console.width - 3
        text = Text(f"{title}  ")
        if share is not None and width >= 100:
            text.append_text(_bar(share, 20, ascii_only=self._done == "*"))
            text.append(" ")
        room = width - len(text)
        if room < 24:
            text.append("\n")
            room = width
        while len(parts) > 1 and len(self._separator.join(parts)) > room:
            parts.pop()
        text.append(self._separator.join(parts), style="quiet")
        line.add_row(self._spinner, text)
        return line


class PlainReporter:
    """A run as lines of text, for scripts, notebooks, logs and pipes: one when a stage begins and ends, one every few seconds in between.

    LLMFineTuner("recipe.yaml", reporter=PlainReporter()).run()

    With `plans` it also says what the plan of the run warns of.
    """

    def __init__(self, console: Console | None = None, *, plans: bool = True) -> None:
        self._plans = plans
        self._console = console or Console(force_jupyter=False, **AS_IT_IS)  # on what stdout is at the moment
        self._titles: dict[str, str] = {}
        self._began = self._next_line = 0.0
        self._last = ""

    def report(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, StageStarted):
            self._titles[event.stage] = event.title
            if (begins := f"{event.title} ...") != self._last:  # which is said already where one waits for the stage
                self.say(begins)
            self._began, self._next_line = now, now + SECONDS_BETWEEN_LINES
        elif isinstance(event, StageFinished):
            title = self._titles.pop(event.stage, event.stage)
            self.say(f"{title}: {event.summary or 'done'} ({_seconds(event.seconds)})")
        elif isinstance(event, Notice):
            self.say(f"{'Warning: ' if event.level == 'warning' else ''}{event.text}")
        elif isinstance(event, Planned) and self._plans:
            for said in (*event.plan.get("problems", ()), *event.plan.get("warnings", ())):
                self.say(f"Warning: {said}")
        elif isinstance(event, HeldOutLoss):
            self.say(f"  step {event.step:,}/{event.total_steps:,}, {_measured(event)}")
        elif isinstance(event, TrainingStep | Progress) and now >= self._next_line:
            self._next_line = now + max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self._began))
            self.say("  " + ", ".join(facts(event)))

    def say(self, line: str) -> None:
        self._last = line
        self._console.print(strip_control_chars(line), soft_wrap=not self._console.file.isatty())


def facts(event: Event, held_out: HeldOutLoss | None = None) -> list[str]:
    """What a progress event says, most important first; `held_out` is what was measured last."""
    if isinstance(event, TrainingStep):
        return [
            f"{100 * event.step / event.total_steps:.0f} %",
            f"{duration(event.seconds_left)} left",
            f"step {event.step:,}/{event.total_steps:,}",
            f"loss {event.loss:.3f}",
            *([_measured(held_out)] if held_out else []),
            f"{event.tokens_per_second:,.0f} tokens/s",
            f"{size(event.memory_bytes)}",
        ]
    if isinstance(event, Progress):
        shown, unit = (size, "") if event.unit == "bytes" else (count, f" {event.unit}".rstrip())
        if not event.total:
            return [f"{shown(event.done)}{unit}"]
        return [f"{100 * event.done / event.total:.0f} %", f"{shown(event.done)} of {shown(event.total)}{unit}"]
    return []


def _measured(event: HeldOutLoss) -> str:
    return f"held-out loss {event.loss:.3f}{', the lowest' if event.best else ''}"


def _share(event: Event | None) -> float | None:
    if isinstance(event, TrainingStep):
        return event.step / event.total_steps
    if isinstance(event, Progress) and event.total:
        return event.done / event.total
    return None


def _bar(share: float, width: int, *, ascii_only: bool) -> Text:
    full = round(max(0.0, min(1.0, share)) * width)
    done, rest = ("#", "-") if ascii_only else ("━", "─")
    return Text(done * full, style="cyan").append(rest * (width - full), style="quiet")


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
