"""Checkpoints on disk: complete or absent, verified by hashes; the last two and the best are kept. No torch here.

    store = Checkpoints(folder)
    store.write(120, {"total_steps": 300, "loss": 1.2}, {"weights.pt": lambda file: torch.save(weights, file)})
    store.newest(damaged=print).step        # 120

    folder/step-00000120/manifest.json      what this is: step, loss, time, and size and SHA-256 of every other file

A checkpoint is written as a `whole_folder`: its files reach the disk before it gets its name. Names inside are relative,
so the folder can be moved. "Best" is the lowest held-out loss where that is measured, and else the lowest mean training loss of the
last steps.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finetune.errors import BadInput, DiskFull
from finetune.foreign import reading
from finetune.system.storage import PART, changed, disk_full, no_room, whole_folder

MANIFEST = "manifest.json"
PREFIX = "step-"
DAMAGED = ".damaged"
KEPT = 2
HELD_OUT = "held_out"  # of those that were the best so far when they were written: their held-out loss
VERSION = 1

Write = Callable[[IO[bytes]], Any]
Files = dict[str, dict[str, Any]]  # size and SHA-256 of each file, by name
Parts = Callable[[Path], Files]  # writes files of its own into a folder


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as its manifest describes it; `facts` are those of `write`, and `saved_at` (seconds since 1970)."""

    folder: Path
    step: int
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @property
    def bytes(self) -> int:
        return sum(int(file["bytes"]) for file in self.files.values())

    def problem(self) -> str | None:
        """Why this checkpoint cannot be trusted, or None; reads every byte."""
        for name, written in self.files.items():
            if problem := changed(self.folder / name, written["bytes"], written["sha256"]):
                return f"{name} {problem}"
        return None


class Checkpoints:
    """The checkpoints of one run, in one folder that need not exist yet."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(
        self, step: int, facts: Mapping[str, Any], contents: Mapping[str, Write], needed: int = 0, parts: Parts | None = None
    ) -> Checkpoint:
        """A new checkpoint, of about `needed` bytes if that is known; all but the last two and the best are deleted.

        `parts` writes more files into the folder. Raises DiskFull; the older ones stay valid then.
        """
        try:
            made = self._write(step, facts, contents, needed, parts)
        except DiskFull:
            if not self._prune(keep=1):
                raise
            made = self._write(step, facts, contents, needed, parts)
        self._prune(keep=KEPT)
        return made

    def all(self) -> list[Checkpoint]:
        """Every checkpoint with a manifest that can be read, newest first; contents are not verified."""
        return [found for path in self._folders() if isinstance(found := _read(path), Checkpoint)]

    def newest(self, damaged: Callable[[str], None]) -> Checkpoint | None:
        """The newest one whose hashes hold; `damaged` takes a sentence about each one that was skipped and set aside."""
        for path in self._folders():
            found = _read(path)
            problem = found.problem() if isinstance(found, Checkpoint) else found
            if isinstance(found, Checkpoint) and problem is None:
                return found
            damaged(f"The checkpoint {path.name} is damaged ({problem}) and is skipped.")
            os.replace(path, path.with_name(f".{path.name}{DAMAGED}"))
        return None

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, step: int, facts: Mapping[str, Any], contents: Mapping[str, Write], needed: int, parts: Parts | None) -> Checkpoint:
        target = self.folder / f"{PREFIX}{step:08d}"
        written = 0
        try:
            for path in self.folder.glob(f".{PREFIX}*{PART}"):  # of a process that was killed
                shutil.rmtree(path, ignore_errors=True)
            with whole_folder(target) as unfinished:
                files = dict(parts(unfinished)) if parts else {}
                for name, write in contents.items():
                    with (unfinished / name).open("wb") as file:
                        sink = Sink(file)
                        try:
                            write(sink)  # type: ignore[arg-type]
                        finally:
                            written += sink.bytes
                            if sink.error is not None:  # libraries turn it into errors of their own
                                raise sink.error
                    files[name] = {"bytes": sink.bytes, "sha256": sink.hash.hexdigest()}
                known = {"version": VERSION, "step": step, **facts, "saved_at": round(time.time(), 3)}
                (unfinished / MANIFEST).write_text(json.dumps({**known, "files": files}, indent=1), encoding="utf-8")
                shutil.rmtree(target, ignore_errors=True)  # left by an attempt that continued from an earlier step
        except OSError as error:
            if not no_room(error):
                raise
            needed = max([needed, written, *(checkpoint.bytes for checkpoint in self.all())])
            raise disk_full(f"The checkpoint of step {step}", needed, self.folder, error) from error
        return Checkpoint(target, step, known, files)

    def _prune(self, *, keep: int) -> int:
        """Remove all but the newest `keep` and the best; with one, also that of the training loss. Returns how many were removed."""
        found = self.all()
        measured = [checkpoint for checkpoint in found if HELD_OUT in checkpoint.facts]
        fact = HELD_OUT if measured else "loss"
        best = min(measured or found, key=lambda checkpoint: (_loss(checkpoint.facts.get(fact)), -checkpoint.step), default=None)
        spare = [checkpoint.folder for checkpoint in found[keep:] if checkpoint is not best or (keep == 1 and not measured)]
        spare += self.folder.glob(f".{PREFIX}*{DAMAGED}")
        for path in spare:
            shutil.rmtree(path, ignore_errors=True)
        return len(spare)

    def _folders(self) -> list[Path]:
        return sorted((path for path in self.folder.glob(f"{PREFIX}*") if path.is_dir()), reverse=True)


def _loss(value: float | None) -> float:
    """For comparing: none is worse than any."""
    return math.inf if value is None else value


class Sink:
    """What a writer writes to: counts and hashes the bytes on their way to the file, and remembers the error of a full disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        block = memoryview(data).cast("B")
        self.hash.update(block)
        self.bytes += len(block)
        try:
            self.file.write(block)
        except OSError as error:
            self.error = error
            raise
        return len(block)

    def flush(self) -> None:
        self.file.flush()


def _read(folder: Path) -> Checkpoint | str:
    """A checkpoint, or why its manifest cannot be read."""
    try:
        with reading(folder / MANIFEST):
            return _parsed(folder)
    except BadInput:
        return f"{MANIFEST} cannot be read" if (folder / MANIFEST).is_file() else f"{MANIFEST} is missing"


def _parsed(folder: Path) -> Checkpoint | str:
    """Raises whatever a file that is no manifest of ours leads to."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    facts = {key: value for key, value in manifest.items() if key != "files"}
    if manifest["version"] != VERSION:
        return f"its format is {manifest['version']}, not {VERSION}"
    found = Checkpoint(folder, int(manifest["step"]), facts, dict(manifest["files"]))
    if found.step < 0 or found.bytes < 0 or any(Path(name).name != name or name == MANIFEST for name in found.files):
        raise ValueError("it names impossible files")
    for file in found.files.values():
        _ = file["bytes"], str(file["sha256"])
    for key in ("total_steps", "saved_at", "seconds"):
        float(facts.get(key, 0))
    return found
