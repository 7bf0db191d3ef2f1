"""The files in run/workers/ through which the parent of a distributed training and its workers exchange orders and events.

    places = Workplace(folder.run / "workers")
    places.order          order.json: the recipe, where everything is, and how the run resolved it
    places.weights        weights.pt: what trains, as it is before the first step
    places.student        config.json of a student that was made from its teacher
    places.asked          asked.json instead of all these: a teacher that is to answer, and where its answers go
    places.events(rank)   events-1.jsonl: one JSON object a line; the parent follows these files
    places.stop           somebody wants the training to stop after the running step
    places.failed         an error of ours has ended a worker: another try would end like it

On several nodes this folder is on a disk that all of them share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune import errors
from finetune.errors import FinetuneError
from finetune.events import Event, Notice


class Workplace:
    """The paths inside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.order, self.weights, self.student = folder / "order.json", folder / "weights.pt", folder / "student"
        self.asked, self.stop, self.failed = folder / "asked.json", folder / "stop", folder / "failed"

    @property
    def given(self) -> Path:
        """What the workers are given to do: asked.json, where there is one, else order.json, which may not be there."""
        return self.asked if self.asked.is_file() else self.order

    @property
    def device(self) -> str:
        """Where the workers are to do it: cpu or cuda."""
        told: str = json.loads(self.given.read_text(encoding="utf-8"))["machine"]["device"]
        return told

    def events(self, rank: int | str) -> Path:
        return self.folder / f"events-{rank}.jsonl"


class Lines:
    """A reporter that writes events into the file of a worker; all of the first one's, of the others what people must know."""

    def __init__(self, path: Path, *, everything: bool) -> None:
        self.path, self.everything = path, everything

    def report(self, event: Event) -> None:
        if self.everything or (isinstance(event, Notice) and event.level == "warning"):
            self.say("event", event.name, **asdict(event))

    def say(self, what: str, name: str, **facts: Any) -> None:
        """One line, written at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "name": name, "at": time.time(), "facts": facts}) + "\n")

    def failed(self, error: FinetuneError) -> None:
        self.say("error", type(error).__name__, message=error.message, hint=error.hint)


class Followed:
    """The files of all workers, read as they grow."""

    def __init__(self, places: Workplace) -> None:
        self.places = places
        self.read: dict[Path, int] = {}

    def new(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Which worker said it, and what it said, since the last call; a line that is still being written waits for the next."""
        for path in sorted(self.places.folder.glob(self.places.events("*").name)):
            with path.open("rb") as file:
                file.seek(self.read.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self.read[path] = self.read.get(path, 0) + len(whole) + 1
                for line in whole.decode().splitlines():
                    yield path.stem.rpartition("-")[2], json.loads(line)


def event_of(line: dict[str, Any]) -> Event:
    """The event that a worker reported."""
    kinds = {kind.name: kind for kind in Event.__subclasses__()}
    return kinds[line["name"]](**line["facts"])


def error_of(line: dict[str, Any]) -> FinetuneError:
    """The error that ended a worker."""
    kind: type[FinetuneError] = getattr(errors, line["name"])
    return kind(line["facts"]["message"], hint=line["facts"]["hint"])
