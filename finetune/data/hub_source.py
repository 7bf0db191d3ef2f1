"""A dataset of the Hugging Face Hub as a source of rows.

open_hub(DatasetSpec(source="openai/gsm8k", config="main"), runtime).pinned  ->  "openai/gsm8k@<commit>"
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.json_values import without_nulls
from finetune.data.rows import Origin, Row
from finetune.events import Reporter
from finetune.hub.datasets import open_dataset
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions


def open_hub(spec: DatasetSpec, runtime: RuntimeOptions, reporter: Reporter | None = None) -> Origin:
    """The records of a Hub dataset; raises DatasetNotFound or DatasetError."""
    found = open_dataset(spec, runtime, reporter)

    def records() -> Iterator[Row]:
        for number, values in enumerate(found, start=1):
            own = {name: without_nulls(value) if isinstance(value, list | dict) else value for name, value in values.items()}
            yield Row(own, f"{found.name} {spec.split}", number)

    notes = [f"The first {found.limit:,} usable rows of {found.name} ({spec.split}) are used."] if found.limit else []
    content = [found.name, found.content, str(spec.config), spec.split, str(spec.data_files), str(found.limit)]
    pinned = f"{found.name}@{found.commit}" if found.commit else None
    return Origin(found.name, lambda: content, records, pinned=pinned, notes=notes, limit=found.limit, restricted=found.restricted)
