"""What was exported, as run/export.json keeps it: a file each, with how it compares to the model it came from.

keep(run, exported)                       # replaces an earlier record of the same file
run.exports                               # [{"type": "q8_0", "gate": {"kl": 0.002, ...}, ...}]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.benchmark.report import write_report
from finetune.publish.card import write_card
from finetune.run_folder import RunFolder


@dataclass(frozen=True)
class Speed:
    """`load_seconds` with the files in the system's cache; `tokens_per_second` None where it was not measured."""

    bytes: int
    load_seconds: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Exported:
    """`gate` is what was proven, `notes` what people should know of the file, `commands` how to use it: the program, and what to type."""

    to: str
    type: str
    folder: str
    file: str
    bytes: int
    sha256: str
    gate: dict[str, Any]
    notes: list[str]
    commands: dict[str, str]
    original: Speed
    exported: Speed | None
    threads: int

    @property
    def smaller(self) -> float:
        return self.original.bytes / self.bytes

    @property
    def faster(self) -> float | None:
        speeds = self.original.tokens_per_second, self.exported.tokens_per_second if self.exported else None
        return speeds[1] / speeds[0] if speeds[0] and speeds[1] else None

    def to_dict(self) -> dict[str, Any]:
        """As export.json and --json have it."""
        return {**asdict(self), "smaller": self.smaller, "faster": self.faster}


def keep(run: RunFolder, exported: Exported) -> None:
    """Add it to the run's records, newest last, and to its card and report."""
    kept = exported.to_dict() | {"folder": str(Path(exported.folder).absolute())}  # an upload may be started anywhere
    others = [each for each in run.exports if (each["folder"], each["file"]) != (kept["folder"], kept["file"])]
    run.write_json(run.export, {"files": [*others, kept]})
    write_card(run)
    if run.benchmark.is_file():
        write_report(run)
