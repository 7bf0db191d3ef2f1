"""What the engine reports: small frozen values handed to a `Reporter`.

The engine never prints. A screen draws events, `run/events.jsonl` keeps them, a test collects them:

    reporter = Recorder()
    LLMFineTuner(recipe, reporter=reporter).run()
    reporter.of(TrainingFinished)[-1].tokens_per_second
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from finetune.errors import BadInput, without_secrets
from finetune.foreign import no_link


@dataclass(frozen=True)
class Event:
    """What happened; `name` is what events.jsonl calls it."""

    name: ClassVar[str]

    def __init_subclass__(cls, name: str) -> None:
        cls.name = name


@dataclass(frozen=True)
class StageStarted(Event, name="stage_started"):
    """A stage (model, data, training, benchmark, upload, ...) begins; `title` is for people."""

    stage: str
    title: str


@dataclass(frozen=True)
class StageFinished(Event, name="stage_finished"):
    """A stage is over; `summary` is one line for people."""

    stage: str
    seconds: float
    summary: str = ""


@dataclass(frozen=True)
class Notice(Event, name="notice"):
    """One sentence a person should know; level is "info" or "warning"."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class Progress(Event, name="progress"):
    """Countable work inside a stage (bytes downloaded, rows tokenised, answers generated)."""

    stage: str
    done: int
    total: int | None
    unit: str = ""


@dataclass(frozen=True)
class RowsWritten(Event, name="rows_written"):
    """A teacher has written rows: of `tried` prompts so many rows were `kept`, and the others thrown away, by reason."""

    by: str
    tried: int
    kept: int
    thrown: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class DataPrepared(Event, name="data"):
    """The data report of the run (see data_report.json)."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Planned(Event, name="plan"):
    """What the run is going to cost, as `plan` says it."""

    plan: dict[str, Any]


@dataclass(frozen=True)
class ModelReady(Event, name="model"):
    """A model is in memory; `linear_share` is the share of the weights in linear layers that learns."""

    role: str
    source: str
    parameters: int
    trainable_parameters: int
    dtype: str
    device: str
    linear_share: float = 1.0


@dataclass(frozen=True)
class TrainingStep(Event, name="step"):
    """One optimizer step; tokens are those of the rows, padding never counted."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    tokens_per_second: float
    memory_bytes: int
    seconds_left: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOutLoss(Event, name="held_out"):
    """The loss after a step on rows that are not trained on, per supervised token; `best` if it is the lowest so far."""

    step: int
    total_steps: int
    loss: float
    best: bool
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointSaved(Event, name="checkpoint"):
    """The training can be continued from here; `seconds` is what saving took."""

    step: int
    total_steps: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Resumed(Event, name="resumed"):
    """A run continues after `step`; steps beyond it that were reported before are made, and reported, again."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class TrainingFinished(Event, name="training"):
    """Totals of the training; `real_tokens` and `supervised_tokens` count rows, never padding.

    `first_loss` and `final_loss` are means of up to five steps at each end, never of the same step twice. `kept` says which step's weights
    are the result, where the held-out loss was measured (see training/kept_step.py). `steps_with_fewer_threads` were made while
    other programs kept cores busy.
    """

    steps: int
    train_seconds: float
    real_tokens: int
    tokens_per_second: float
    supervised_tokens: int
    peak_memory_bytes: int
    trainable_parameters: int
    parameters: int
    first_loss: float
    final_loss: float
    kept: dict[str, Any] | None = None
    steps_with_fewer_threads: int = 0

    @property
    def made(self) -> str:
        """ "51 steps, loss 3.73 -> 2.47"; one step has one loss."""
        if self.steps == 1:
            return f"1 step, loss {self.final_loss:.2f}"
        return f"{self.steps:,} steps, loss {self.first_loss:.2f} -> {self.final_loss:.2f}"


@dataclass(frozen=True)
class RoundFinished(Event, name="round"):
    """One of several rounds is over, and another follows; its student has so many layers and these scores on the held-out rows."""

    number: int
    rounds: int
    layers: int
    steps: int
    scores: dict[str, float]


@dataclass(frozen=True)
class OwnAnswers(Event, name="own_answers"):
    """The student has written answers to train on before `step`: of so many `tokens` on average, this share `cut` off before their end.

    `repetition` is the share of 4-grams of tokens that an answer has used before.
    """

    step: int
    answers: int
    tokens: float
    cut: float
    repetition: float
    seconds: float


@dataclass(frozen=True)
class RanksSettled(Event, name="ranks"):
    """The rank that each adapted layer ended with, where a method moves them; 0 for a layer that is left as it was."""

    ranks: dict[str, int]


@dataclass(frozen=True)
class BenchmarkFinished(Event, name="benchmark"):
    """The content of benchmark.json."""

    scores: dict[str, Any]


@dataclass(frozen=True)
class Uploaded(Event, name="uploaded"):
    repo: str
    url: str
    private: bool


class Reporter(Protocol):
    """Anything that takes events; one that raises an error gets no more of them, and the run goes on."""

    def report(self, event: Event) -> None: ...


@contextmanager
def stage(reporter: Reporter, name: str, title: str) -> Iterator[Callable[[str], None]]:
    """Report a stage's begin and end; the yielded function takes its one-line summary."""
    summary: list[str] = []
    reporter.report(StageStarted(name, title))
    began = time.perf_counter()
    yield summary.append
    reporter.report(StageFinished(name, round(time.perf_counter() - began, 3), "".join(summary[-1:])))


Kind = TypeVar("Kind", bound=Event)


class Recorder:
    """Keeps every event in a list: the reporter of tests and notebooks."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


class Warn:
    """Passes on what warns a person, as a warning of Python: for a trainer alone, whose caller has no reporter."""

    def report(self, event: Event) -> None:
        if isinstance(event, Notice) and event.level == "warning":
            warnings.warn(event.text, stacklevel=3)


class JsonLines:
    """Appends every event to a file as one JSON object a line, with its name and the time; progress ticks are left out.

    A disk that is full loses lines here; the run itself says so where it loses work.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._torn = path, False
        with suppress(OSError):
            self._torn = path.is_file() and not path.read_bytes().endswith(b"\n")  # by a run that was killed

    def report(self, event: Event) -> None:
        if isinstance(event, Progress):
            return
        record = {"event": event.name, "time": round(time.time(), 3), **asdict(event)}
        line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
        try:
            # File names may be no Unicode.
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace", opener=no_link) as file:
                file.write("\n" + line if self._torn else line)
            self._torn = False
        except OSError:
            self._torn = True


# The number that a record of these is placed by.
NUMBERED = {kind.name: "step" for kind in (Resumed, TrainingStep, HeldOutLoss, CheckpointSaved, OwnAnswers)} | {
    RoundFinished.name: "number"
}


def read_events(path: Path) -> list[dict[str, Any]]:
    """The records of an events file; an incomplete last line is skipped, and so are steps that were repeated after a resume.

    Each round counts its steps from 1.
    """
    records: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.split("\n"):  # not splitlines: a text may contain separators that JSON does not escape
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        number = NUMBERED.get(str(record.get("event")))
        if number and not isinstance(record.get(number), int):  # damaged
            continue
        if record.get("event") == Resumed.name:
            begun = max((place for place, each in enumerate(records) if each.get("event") == RoundFinished.name), default=0)
            records[begun:] = [earlier for earlier in records[begun:] if not _made_again(earlier, record["step"])]
        if record.get("event") == RoundFinished.name:  # again, if the run was killed before it noted it
            same = record["number"]
            records = [earlier for earlier in records if earlier.get("event") != RoundFinished.name or earlier["number"] != same]
        records.append(record)
    return records


def _made_again(record: dict[str, Any], step: int) -> bool:
    """Whether a run that continues after `step` reports this again."""
    if record.get("event") in (TrainingStep.name, HeldOutLoss.name, CheckpointSaved.name, OwnAnswers.name):
        return bool(record["step"] > step)
    return record.get("event") == TrainingFinished.name


class Fanout:
    """Hands each event to several reporters; more can be added while a run goes on, and no error of theirs ends it.

    A notice may repeat what a library said, so it is handed on without passwords and tokens. Raises BadInput for what cannot report.
    """

    def __init__(self, *reporters: Reporter) -> None:
        for reporter in reporters:
            if not callable(getattr(reporter, "report", None)):
                raise BadInput(
                    f"A reporter of type {type(reporter).__name__} has no method report(event).",
                    hint="Pass finetune.PlainReporter(), or an object that has one.",
                )
        self.reporters = list(reporters)

    def report(self, event: Event) -> None:
        failed: list[tuple[Reporter, Exception]] = []
        if isinstance(event, Notice):
            event = replace(event, text=without_secrets(event.text))
        for reporter in list(self.reporters):
            try:
                reporter.report(event)
            except Exception as error:  # noqa: BLE001  whatever it is, a run goes on
                failed.append((reporter, error))
        for reporter, _ in failed:
            self.leave_out(reporter)
        for reporter, why in failed:
            if not isinstance(why, OSError):  # a reader that left or a full disk: there is nothing to warn about
                what = f"{type(reporter).__name__} failed and gets no more events: {type(why).__name__}: {why}"
                warnings.warn(what, RuntimeWarning, stacklevel=2)  # it may have been the only one that a person sees
                self.report(Notice(what, "warning"))

    def leave_out(self, reporter: Reporter) -> None:
        """Report nothing more to it."""
        self.reporters[:] = [other for other in self.reporters if other is not reporter]
