"""The first rows of a dataset as the model will see them, the part it learns to write marked at the left edge.

seen = look(DatasetSpec(), runtime)         # Preview, or the DatasetError that reading it ended in
prompter.note(fragments(seen))
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from finetune.errors import DatasetError
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.wizard.prompter import Fragments

if TYPE_CHECKING:
    from finetune.data.preview import Preview
    from finetune.runtime import RuntimeOptions

MOST_LINES = {False: 6, True: 5}  # of the given part, of the learned part
LONGEST_LINE = 100


def look(spec: DatasetSpec, runtime: RuntimeOptions) -> Preview | DatasetError:
    """Reads a few rows; remembered, because the wizard asks again after every step back."""
    return _look(spec.model_copy(update={"samples": None}).model_dump_json(), runtime)


def columns_of(spec: DatasetSpec, runtime: RuntimeOptions) -> list[str]:
    """The names of the columns, whatever they mean."""
    from finetune.data.sources import read_rows

    return list(read_rows(spec.model_copy(update={"samples": 2}), runtime, Recorder()).dataset.column_names)


def fragments(preview: Preview, bar: str = "▌") -> Fragments:
    """Columns, format and one example."""
    lines: Fragments = [("class:quiet", "Columns: "), ("", ", ".join(preview.columns)), ("class:quiet", f" · read as {preview.format}\n")]
    supervised = {segment.supervised for segment in preview.examples[0]}
    lines.append(
        ("class:quiet", "One row. Marked: what the model learns to write.\n" if len(supervised) > 1 else "One row; all of it is learned.\n")
    )
    for segment in preview.examples[0]:
        edge, style = (f"{bar} ", "class:learned") if segment.supervised else ("│ ", "")
        for line in _shortened(segment.text, MOST_LINES[segment.supervised]):
            lines += [("class:learned" if segment.supervised else "class:quiet", edge), (style, line), ("", "\n")]
    return lines[:-1]


def _shortened(text: str, most: int) -> list[str]:
    lines = [line.expandtabs(4) for line in text.strip("\n").splitlines() if line.strip()]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"… {len(lines) - most + 1} more lines"]
    return [line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…" for line in lines]


@lru_cache(maxsize=32)
def _look(spec: str, runtime: RuntimeOptions) -> Preview | DatasetError:
    from finetune.data.preview import preview_source

    try:
        return preview_source(DatasetSpec.model_validate_json(spec), runtime, Recorder())
    except DatasetError as error:
        return error
