"""The first rows of a source as a person should see them, before any model or tokenizer is loaded.

preview = preview_source(recipe.dataset, runtime, reporter)
preview.format, preview.columns, preview.examples[0]   ->  "question_answer", ["question", "answer"], [Piece("2 + 2?", False), ...]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from finetune.data.formats.cells import is_blank, is_blank_row
from finetune.data.reading import SAMPLE, check_characters, columns_of, open_source
from finetune.data.row_reader import RowReader
from finetune.data.rows import NotWanted, Row, RowProblem, SkippedRow, as_many, no_rows, weight_of
from finetune.data.tokens.pieces import Piece
from finetune.data.tokens.plain_template import PlainTemplate
from finetune.errors import BadRow, UnknownFormat
from finetune.events import Recorder, Reporter
from finetune.foreign import reading, reason
from finetune.recipe import DatasetSpec
from finetune.recipe.settings import TEACHER
from finetune.runtime import RuntimeOptions

# What only some models can be taught; which one it will be is not known yet.
THINKS = "Reasoning is learned if the model's chat template accepts it; if not, it is left out, and the plan says so."
USES_TOOLS = "Tool calls are learned if the model's chat template writes them; if not, such rows cannot be used, and the plan says so."


@dataclass(frozen=True)
class Preview:
    """`format` is None, and `problem` says why, where no format was found; `used_columns` are those that the format reads."""

    origin: str
    columns: list[str]
    format: str | None
    used_columns: list[str]
    examples: list[list[Piece]]
    records: list[dict[str, Any]]
    skipped: list[SkippedRow]
    notes: list[str]
    problem: str | None = None
    encodings: list[str] = field(default_factory=list)  # of text files, as they were detected
    prose: bool = False  # from .txt or .md files

    @property
    def ignored_columns(self) -> list[str]:
        return [column for column in self.columns if column not in self.used_columns]


def preview_source(spec: DatasetSpec, runtime: RuntimeOptions | None = None, reporter: Reporter | None = None, limit: int = 3) -> Preview:
    """Columns, format and `limit` rendered examples; reads only the beginning. Raises the errors of `read_rows` but UnknownFormat."""
    origin = open_source(spec, runtime or RuntimeOptions(), reporter or Recorder())
    head = as_many(origin.records(), SAMPLE, weight_of)
    records = [record for record in head if isinstance(record, Row)]
    skipped = [record for record in head if isinstance(record, SkippedRow)]
    if not records:
        raise no_rows(origin.name, skipped)
    columns = columns_of(records)
    try:
        with reading(origin.name, BadRow):
            sample, prompts = [record.values for record in records], spec.answers == TEACHER
            reader = RowReader(columns, sample, spec.columns, origin.name, prompts=prompts, chats=not origin.cut)
    except UnknownFormat as error:
        shown = [record.values for record in records[:limit]]
        return Preview(origin.name, columns, None, [], [], shown, skipped, origin.notes, error.message, origin.encodings, origin.prose)
    template = PlainTemplate(end="", shows_calls=True)
    examples: list[list[Piece]] = []
    shown = []
    not_wanted: Counter[str] = Counter()
    depends: set[str] = set()
    for record in records:
        values = reader.values(record.values)
        if is_blank_row(values):
            continue
        try:
            found = reader.record(values)
            check_characters(found)
            messages = found["messages"]
            shows = len(examples) < limit and not all(map(is_blank, messages))
            pieces = template.pieces(messages) if shows else []
        except NotWanted as problem:
            not_wanted[str(problem)] += 1
            continue
        except (RowProblem, RecursionError) as problem:
            skipped.append(SkippedRow(record.file, record.line, reason(problem)))
            continue
        depends |= {THINKS} if any(turn.get("reasoning_content") for turn in messages) else set()
        depends |= {USES_TOOLS} if found.get("tools") or any(turn.get("tool_calls") for turn in messages) else set()
        if pieces:
            examples.append(pieces)
            shown.append(record.values)
    if not examples:
        refused, shown = reader.no_rows(skipped, not_wanted), [record.values for record in records[:limit]]
        nested = any(isinstance(cell, list | dict) for row in shown for cell in row.values())
        if "dataset.columns." in str(refused.hint) and (nested or set(columns).difference(reader.columns)):  # in which may be what is meant
            return Preview(origin.name, columns, None, [], [], shown, skipped, origin.notes, refused.message, origin.encodings)
        raise refused
    # Counts of the first rows would be taken for those of all.
    notes = [*origin.notes, *filter(None, [getattr(reader.format, "note", None)])]
    notes += [f"Rows are left out where {reason}." for reason in not_wanted]
    notes += sorted(depends)
    used, columns = reader.columns, reader.all_columns
    return Preview(origin.name, columns, reader.format.name, used, examples, shown, skipped, notes, None, origin.encodings, origin.prose)
