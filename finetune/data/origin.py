"""An opened source of rows, wherever it is: a file, a built-in data set, or one of the Hub.

origin = open_source(recipe.dataset, runtime, reporter)      # finetune.data.reading
next(origin.records())                                       # Row({"question": "..."}, "train.jsonl", 1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from finetune.data.rows import Row, SkippedRow


@dataclass
class Origin:
    """Where rows come from, what identifies their content, and the records themselves."""

    name: str
    fingerprint: Callable[[], list[str]]  # reads all of the content: not called for a preview
    records: Callable[[], Iterator[Row | SkippedRow]]
    pinned: str | None = None
    notes: list[str] = field(default_factory=list)
    limit: int | None = None  # usable rows after which a streamed source is left
    encodings: list[str] = field(default_factory=list)  # of its text files
    prose: bool = False
    files: list[str] = field(default_factory=list)  # local ones, as they are called in reports
    restricted: bool = False  # a data set of the Hub that not everybody can read, as far as could be asked
