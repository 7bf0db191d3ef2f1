"""The folder a run leaves behind: where each file of `<output_dir>/run/` is, how it is written, and which process uses it.

folder = RunFolder.create("./finetuned_model")
folder.write_json(folder.benchmark, scores)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.errors import BadInput, DiskFull, FolderInUse, OutputExists
from finetune.foreign import read_settings, reading
from finetune.runtime import RuntimeOptions
from finetune.system.paths import looking_at, typed_path
from finetune.system.shell import joined, quoted
from finetune.system.storage import PART, Lock, NoLock, disk_full, lock, no_room, ordinary_permissions, replace, to_disk, write_whole

ROWS, TRAINING, BENCHMARK, UPLOAD, FINISHED = "rows", "training", "benchmark", "upload", "finished"  # what a run is at
REMADE = "Run `finetune-cli benchmark OUTPUT_DIR` to make it again."
STAGES = (ROWS, TRAINING, BENCHMARK, UPLOAD, FINISHED)


class RunFolder:
    """Paths of one run; files are written whole or not at all."""

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = typed_path(output_dir)
        self.run = self.output_dir / "run"
        self.recipe = self.run / "recipe.yaml"
        self.recipe_schema = self.run / "recipe.schema.json"
        self.continued = self.run / "continued.json"  # the earlier adapter that was trained further, and its base
        self.student = self.run / "student.json"  # how a student was made from its teacher
        self.rounds = self.run / "rounds"  # students of finished rounds, until the last is over
        self.environment = self.run / "environment.json"
        self.events = self.run / "events.jsonl"
        self.synthetic = self.run / "synthetic.jsonl"  # rows that a teacher wrote for this run
        self.data_report = self.run / "data_report.json"
        self.benchmark = self.run / "benchmark.json"
        self.export = self.run / "export.json"  # files for other programs, and what was proven of them
        self.held_out = self.run / "held_out"
        self.debug_log = self.run / "debug.log"
        self.checkpoints = self.run / "checkpoints"
        self.progress = self.run / "progress.json"
        self.lock_file = self.run / ".lock"
        self.lock_owner = self.run / ".lock.json"
        self.card = self.output_dir / "README.md"
        self._lock: Lock | None = None
        self.held = False  # by this process, now or earlier
        self.weaknesses: list[str] = []  # of its file system, known once it is claimed

    @classmethod
    def create(cls, output_dir: str | Path) -> RunFolder:
        """Make the folder and claim it; raises OutputExists if it already holds a run's model or anything else but a debug log."""
        folder = cls(output_dir)
        folder.check_free()
        try:
            folder.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_made(folder.output_dir, error.strerror or error) from None
        folder.claim()
        try:
            folder.check_free()  # nobody can have begun in between
        except OutputExists:
            folder.release()
            raise
        return folder

    @classmethod
    def of(cls, output_dir: str | Path, *, hint: str = "Name the output_dir of a finished run.") -> RunFolder:
        """The folder of a finished run; raises BadInput if there is none."""
        folder = cls(output_dir)
        with looking_at(output_dir):
            found, there = folder.recipe.is_file(), folder.output_dir.exists()
        if not found:
            why = f"{output_dir} is not a run folder: it has no run/recipe.yaml." if there else f"There is no folder {output_dir}."
            raise BadInput(why, hint=hint)
        return folder

    def check_free(self) -> None:
        """Raises OutputExists if the folder holds more than what an aborted start leaves, FolderInUse if it is claimed.

        BadInput if it cannot be made or written to.
        """
        ours = {self.debug_log, self.lock_file, self.lock_owner}

        def counts(path: Path) -> bool:
            return path.is_file() and path not in ours and not (path.parent == self.run and path.suffix == PART)

        with looking_at(self.output_dir):
            if self.output_dir.is_file():
                raise OutputExists(f"{self.output_dir} is a file, not a folder.", hint="Choose another --output-dir.")
            self.check_unclaimed()
            # Looked at only until the first one: the wizard asks about whatever folder is typed, a home folder too.
            if self.output_dir.is_dir() and any(map(counts, self.output_dir.rglob("*"))):
                unfinished = self.stage not in (None, FINISHED)
                raise OutputExists(
                    f"The output folder {self.output_dir} is not empty; nothing is overwritten.",
                    hint=f"Choose another one, for example --output-dir {quoted(free_name(self.output_dir))}"
                    + (f", or continue the run in it: finetune-cli resume {quoted(self.output_dir)}" if unfinished else ""),
                )
        check_can_be_made(self.output_dir)

    # Who works here.

    def claim(self) -> None:
        """Keep other processes out until `release` or the end of this one; raises FolderInUse."""
        if self._lock is None:
            if linked := next((path for path in (self.events, self.debug_log) if path.is_symlink()), None):
                raise BadInput(f"{linked} is a link: what the run notes would be added to whatever it leads to.", hint="Remove the link.")
            self._lock, self.held = self._locked(), True
            self.weaknesses = []
            if isinstance(self._lock, NoLock):
                self.weaknesses.append(f"{self.output_dir} is on a file system without locks: start no second run in it.")
            if not to_disk(self.run):
                self.weaknesses.append(
                    f"{self.output_dir} is on a file system that does not confirm what is on the disk: "
                    "after a loss of power the last checkpoint may be damaged, and an older one is used."
                )
            with suppress(DiskFull):  # it is only for people
                self.write_json(self.lock_owner, {"pid": os.getpid(), "host": platform.node()})

    @property
    def is_claimed(self) -> bool:
        return self._lock is not None

    def release(self) -> None:
        """Let others in again."""
        if self._lock is not None:
            self.lock_owner.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Claimed in the block, and after it only if it was before."""
        before = self.is_claimed
        self.claim()
        try:
            yield
        finally:
            if not before:
                self.release()

    def check_unclaimed(self) -> None:
        """Raises FolderInUse if another process works here; in a read-only folder that cannot be known."""
        if self._lock is None and self.lock_file.is_file():
            with suppress(OSError):
                self._locked().release()

    def _locked(self) -> Lock:
        from filelock import Timeout

        try:
            return lock(self.lock_file, timeout=0)
        except Timeout:
            raise self._in_use() from None

    def _in_use(self) -> FolderInUse:
        try:
            owner = json.loads(self.lock_owner.read_text(encoding="utf-8"))
            who = f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return FolderInUse(f"{self.output_dir} is in use by {who}.", hint="Wait until it finishes, or choose another --output-dir.")

    # What it is at.

    @property
    def stage(self) -> str | None:
        """ROWS, TRAINING, BENCHMARK, UPLOAD or FINISHED; None if there is no run here."""
        if self.progress.is_file():
            stage = self.read_json(self.progress).get("stage", TRAINING)
            if stage not in STAGES:
                raise BadInput(f"{self.progress} names a stage that no run has: {str(stage)[:80]!r}.", hint=REMADE)
            return str(stage)
        if self.benchmark.is_file():
            return FINISHED
        return TRAINING if self.recipe.is_file() else None

    def write_stage(self, stage: str, **facts: Any) -> None:
        """Note what the run is at now, beside what is known already."""
        self.write_json(self.progress, {**self.known(self.progress), **facts, "stage": stage})

    def finished_rounds(self) -> list[dict[str, Any]]:
        """What is noted of each finished round of a training in several rounds, but for the last."""
        return list(self.known(self.progress).get("rounds", []))

    def forget(self) -> None:
        """Remove the records of a run that could not begin, so that the folder is free again."""
        for path in (self.recipe, self.recipe_schema, self.environment, self.progress, self.events):
            path.unlink(missing_ok=True)

    # Files that are there whole or not at all.

    @contextmanager
    def whole_model(self, needed: int) -> Iterator[Path]:
        """A folder to save a model of about `needed` bytes into; its files then replace those in `output_dir`. Raises DiskFull."""
        partial = self.run / f"model{PART}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            ordinary_permissions(partial)
            for path in partial.rglob("*"):
                to_disk(path)
            for entry in sorted(partial.iterdir()):
                target = self.output_dir / entry.name
                if target.is_dir():
                    shutil.rmtree(target)
                replace(entry, target)
            to_disk(self.output_dir)
        except Exception as error:
            if no_room(error):
                raise disk_full("The trained model", needed, self.output_dir, error) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @property
    def exports(self) -> list[dict[str, Any]]:
        """What was exported, newest last; raises BadInput for a damaged record."""
        found = self.known(self.export).get("files", [])
        if not (isinstance(found, list) and all(isinstance(each, dict) and {"folder", "file"} <= each.keys() for each in found)):
            raise BadInput(f"{self.export} is not a list of exported files.", hint=f"Remove {self.export}.")
        return list(found)

    def write_json(self, path: Path, content: Any) -> None:
        self.write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Raises DiskFull, and leaves what was there before."""
        try:
            write_whole(path, text)
        except OSError as error:
            if not no_room(error):
                raise
            then = "give the same command again" if self.stage in (None, FINISHED) else "continue with `resume`"
            raise disk_full(path.name, len(text.encode()), self.output_dir, error, then) from error

    def read_json(self, path: Path) -> dict[str, Any]:
        """A record of the run; raises BadInput for what is not a JSON object."""
        return read_settings(path, BadInput, hint=REMADE)

    def known(self, path: Path) -> dict[str, Any]:
        """The same; empty where the run has not written it."""
        return self.read_json(path) if path.is_file() else {}

    def as_begun(self, runtime: RuntimeOptions) -> RuntimeOptions:
        """The options with which to continue here, or to measure again: what they leave open is as the run began."""
        with reading(self.environment, hint="Delete it to go on without it."):
            return runtime.as_begun(self.known(self.environment))


def asked_again(environment: Mapping[str, Any]) -> str:
    """The options of the run that began in this `environment` (environment.json), to stand after its command: " --dtype float32"."""
    asked = environment.get("asked", {})
    return "".join(f" --{name} {quoted(asked[name])}" for name in ("device", "dtype", "nproc") if name in asked)


def run_again(output_dir: Path, environment: Mapping[str, Any], changes: Sequence[str] = ()) -> str:
    """What follows the program's name to repeat a run, with KEY=VALUE `changes`, in a free folder and with the options that it had."""
    settings = [word for change in changes for word in ("--set", change)]
    words = ["run", output_dir / "run" / "recipe.yaml", *settings, "--output-dir", free_name(output_dir)]
    return f"{joined(words)}{asked_again(environment)}"


def check_can_be_made(folder: Path) -> None:
    """Raises BadInput if a folder cannot be made, or not be written to if it is there."""
    with looking_at(folder):
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not above.is_dir():
            raise cannot_be_made(folder, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise cannot_be_made(folder, "Permission denied")


def cannot_be_made(output_dir: Path, reason: object) -> BadInput:
    """What is wrong with a folder that the system does not let us make, or write to if it is there."""
    work = "written to" if os.path.isdir(output_dir) else "made"
    return BadInput(f"The output folder {output_dir} cannot be {work}: {reason}.", hint="Choose another folder, or change the permissions.")


def beside(folder: Path, ending: str) -> Path:
    """The place next to `folder` that is called like it, and `ending` after that."""
    named = folder if folder.name not in ("", "..") else folder.resolve()  # "." has no name
    return named.parent / f"{named.name}{ending}"


def free_name(output_dir: Path) -> Path:
    """The first of NAME-2, NAME-3, ... that does not exist."""
    number = 2
    while os.path.lexists(candidate := beside(output_dir, f"-{number}")):
        number += 1
    return candidate
