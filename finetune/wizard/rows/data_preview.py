"""The first rows of a dataset as the model will see them, the part it learns marked at the left edge.

seen = look(DatasetSpec(), runtime)         # Preview, or the DatasetError that reading it ended in
prompter.note(fragments(seen))
rows_of(DatasetSpec(source="rows.csv"), runtime)        # how many rows the file has
"""

from __future__ import annotations

import glob
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import registry
from finetune.data.files import looks_local, named_files
from finetune.errors import DatasetError
from finetune.events import Recorder
from finetune.formatting import counted, strip_control_chars
from finetune.letters import shortened
from finetune.recipe import DatasetSpec
from finetune.system.paths import accessing, typed_path
from finetune.wizard import preload
from finetune.wizard.asking.prompter import Fragments
from finetune.wizard.error_words import without_setting

if TYPE_CHECKING:
    from finetune.data.preview import Preview
    from finetune.runtime import RuntimeOptions

MOST_LINES_GIVEN, MOST_LINES_LEARNED = 6, 5
LONGEST_LINE = 110
COUNTING_SECONDS = 1.0
MOST_WATCHED = 10_000  # files of a folder; a change of others is not noticed


def look(spec: DatasetSpec, runtime: RuntimeOptions) -> Preview | DatasetError:
    """Reads a few rows; remembered until a file changes, because the wizard asks again after every step back. Errors are not."""
    try:
        now = state(spec.source)
        with accessing(spec.source, DatasetError):
            return _look(spec.model_dump_json(), runtime, now)
    except DatasetError as error:
        return error


def state(source: str) -> tuple[tuple[str, int, int], ...]:
    """Of the files of a source, what changes when a person corrects one; raises DatasetError for paths that cannot be accessed."""
    with accessing(source, DatasetError):
        typed_path(source, DatasetError)
        paths = [path for name in named_files(source) for path in _files(typed_path(name, DatasetError).absolute())]
        facts = [(path, path.stat()) for path in paths]
    return tuple((str(path), fact.st_mtime_ns, fact.st_size) for path, fact in facts)


def _files(path: Path) -> list[Path]:
    """The file itself, those below a folder, or those that a pattern matches."""
    found = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    below = chain.from_iterable(place.rglob("*") if place.is_dir() else [place] for place in found)
    return [file for file in islice(below, MOST_WATCHED) if file.is_file()]


def fragments(seen: Preview, *, distilling: bool = False) -> Fragments:
    """Columns, format and one example; a student may learn the prompt too (`distillation.supervise`), which is asked later."""
    ignored = f" · not used: {strip_control_chars(', '.join(seen.ignored_columns))}" if seen.ignored_columns else ""
    lines: Fragments = [
        ("class:quiet", "Columns: "),
        ("", strip_control_chars(", ".join(seen.used_columns))),
        ("class:quiet", f" · read as {registry.title('formats', seen.format or '')}{ignored}\n"),
    ]
    lines += [("class:quiet", f"{without_setting(note)}\n") for note in seen.notes]
    if seen.skipped:
        first = seen.skipped[0]
        where = f"{'' if first.file == seen.origin else f'{strip_control_chars(first.file)} '}line {first.line}"
        lines.append(("class:warning", f"{len(seen.skipped)} of the first rows cannot be used, for example {where}: {first.reason}\n"))
    example = seen.examples[0]
    mixed = len({segment.supervised for segment in example}) > 1
    learned = "its answer is marked" if distilling and mixed else f"the model learns {'the marked part' if mixed else 'all of it'}"
    lines.append(("class:quiet", f"One row; {learned}.\n"))
    for segment in example:
        most = MOST_LINES_LEARNED if segment.supervised else MOST_LINES_GIVEN
        for line in _shortened(segment.text, most):
            lines += [("class:learned", "▌ ") if segment.supervised else ("class:quiet", "│ ")]
            lines += [("class:learned" if segment.supervised else "", line), ("", "\n")]
    return lines[:-1]


@dataclass(frozen=True)
class Rows:
    """How many rows data have; at least so many where counting stopped before their end."""

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"{'' if self.exact else 'more than '}{counted(self.number, 'row')}"


def rows_of(spec: DatasetSpec, runtime: RuntimeOptions) -> Rows | None:
    """The rows of files on this machine, counted for a moment; None for other sources, and for files that cannot be read.

    Remembered until a file changes.
    """
    try:
        if spec.source.startswith("builtin:") or not looks_local(spec.source):
            return None
        with accessing(spec.source, DatasetError):
            return _count(spec.model_dump_json(), runtime, state(spec.source))
    except DatasetError:
        return None


@lru_cache(maxsize=32)
def _count(spec: str, runtime: RuntimeOptions, state: object) -> Rows:
    from finetune.data.reading import open_source
    from finetune.data.rows import Row

    wanted = DatasetSpec.model_validate_json(spec)
    number, ends = 0, time.monotonic() + COUNTING_SECONDS
    for record in open_source(wanted, runtime, Recorder()).records():
        number += isinstance(record, Row) and any(str(value).strip() for value in record.values.values() if value is not None)
        if number % 256 == 0 and time.monotonic() > ends:
            return Rows(number, exact=False)
    return Rows(number, exact=True)


def _shortened(text: str, most: int) -> list[str]:
    lines = [line.expandtabs(4) for line in strip_control_chars(text).splitlines() if line.strip()]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"… {len(lines) - most + 1} more lines"]
    return [shortened(line, LONGEST_LINE) for line in lines]


@lru_cache(maxsize=32)
def _look(spec: str, runtime: RuntimeOptions, state: object) -> Preview:
    from finetune.data.preview import preview_source

    wanted = DatasetSpec.model_validate_json(spec)
    if not (wanted.source.startswith("builtin:") or Path(wanted.source).expanduser().exists()):
        preload.wait()  # the Hub is read with the datasets library
    return preview_source(wanted, runtime, Recorder())
