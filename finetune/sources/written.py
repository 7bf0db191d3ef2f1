"""The rows that a teacher has written so far: one line of JSON for each batch, appended, so that an interrupted run goes on behind it.

    with Written.open(path) as written:
        written.add(Batch(tried=32, asked=[...], rows=[...], thrown={...}))
    written.rows, written.tried, written.thrown

Every batch follows from its number and the batches before it, so going on gives the rows that an undisturbed run would have given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.foreign import no_link, reading
from finetune.system.storage import lock, to_disk, unwritable_cache

Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Of `tried` prompts those that were `asked`, the rows that came of them, and how many were thrown away, by reason."""

    tried: int
    asked: list[str]
    rows: list[Row]
    thrown: dict[str, int]


@dataclass
class Written:
    """The batches in a file, in order."""

    path: Path
    batches: list[Batch] = field(default_factory=list)
    bytes: int = 0  # of whole lines

    @classmethod
    def read(cls, path: Path) -> Written:
        """What is in the file; a last line that was cut off does not count. Raises BadInput for one that is damaged."""
        found = cls(path)
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            if not line.endswith(b"\n"):
                break
            with reading(path, hint="Delete that file; the rows are written again."):
                found.batches.append(Batch(**json.loads(line)))
            found.bytes += len(line)
        return found

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Written]:
        """The same to go on with; one process at a time. Raises HardwareError if the cache cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = lock(path.with_suffix(".lock"))
        except OSError as error:
            raise unwritable_cache(path.parent, error) from None
        try:
            found = cls.read(path)
            if path.is_file():
                with open(path, "r+b", opener=no_link) as file:
                    file.truncate(found.bytes)
            yield found
        finally:
            held.release()

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self.batches for row in batch.rows]

    @property
    def asked(self) -> list[str]:
        return [prompt for batch in self.batches for prompt in batch.asked]

    @property
    def tried(self) -> int:
        return sum(batch.tried for batch in self.batches)

    @property
    def thrown(self) -> dict[str, int]:
        """How many were thrown away, by reason, the most frequent first."""
        return dict(sum((Counter(batch.thrown) for batch in self.batches), Counter[str]()).most_common())

    def first(self, rows: int) -> Written:
        """The batches that the first so many rows came from."""
        found = Written(self.path)
        while len(found.rows) < rows and len(found.batches) < len(self.batches):
            found.batches.append(self.batches[len(found.batches)])
        return found

    def add(self, batch: Batch) -> None:
        line = json.dumps(asdict(batch), ensure_ascii=False).encode() + b"\n"
        try:
            with open(self.path, "ab", opener=no_link) as file:
                file.write(line)
            to_disk(self.path)
        except OSError as error:
            raise unwritable_cache(self.path.parent, error) from None
        self.batches.append(batch)
