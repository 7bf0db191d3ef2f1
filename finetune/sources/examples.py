"""The examples that show a teacher which rows are wanted: a file of any format, a dozen rows with prompts and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.data.files import looks_local
from finetune.data.reading import read_rows
from finetune.errors import DatasetNotFound, UnknownFormat
from finetune.recipe import DatasetSpec

if TYPE_CHECKING:
    from finetune.events import Reporter
    from finetune.runtime import RuntimeOptions
    from finetune.sources.prompt_builder import Turns

FEWEST = 3
ROLES = ("user", "assistant")
SHOW = "Give a file with a dozen rows, each with a prompt and its answer: --set dataset.examples=FILE"


def read_examples(name: str, runtime: RuntimeOptions, reporter: Reporter) -> list[Turns]:
    """The rows as chat turns, each ending with an answer. Raises the DatasetError that states what is wrong."""
    if not looks_local(name):
        raise DatasetNotFound(f"There is no file {name} with examples.", hint=SHOW)
    rows = read_rows(DatasetSpec(source=name, samples=None), runtime, reporter)
    found = [
        [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"] if turn["role"] in ROLES] for row in rows.dataset
    ]
    usable = [turns for turns in found if tuple(turn["role"] for turn in turns[-2:]) == ROLES]
    if len(usable) < FEWEST:
        raise UnknownFormat(f"{name} has {len(usable)} rows with a prompt and an answer; the teacher needs at least {FEWEST}.", hint=SHOW)
    return usable
