"""The folder a run leaves behind: where each file of `<output_dir>/run/` is, and how it is written.

folder = RunFolder.create("./finetuned_model")
folder.write_json(folder.benchmark, scores)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from finetune.errors import BadInput, OutputExists


class RunFolder:
    """Paths of one run; files are written whole or not at all."""

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.run = self.output_dir / "run"
        self.recipe = self.run / "recipe.yaml"
        self.environment = self.run / "environment.json"
        self.events = self.run / "events.jsonl"
        self.data_report = self.run / "data_report.json"
        self.benchmark = self.run / "benchmark.json"
        self.held_out = self.run / "held_out"
        self.debug_log = self.run / "debug.log"
        self.checkpoints = self.run / "checkpoints"
        self.card = self.output_dir / "README.md"

    @classmethod
    def create(cls, output_dir: str | Path) -> RunFolder:
        """Make the folder; raises OutputExists if it already holds a run's model or anything else but a debug log."""
        folder = cls(output_dir)
        folder.check_free()
        try:
            folder.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise BadInput(
                f"The output folder {folder.output_dir} cannot be made: {reason}.", hint="Choose another --output-dir."
            ) from None
        return folder

    @classmethod
    def of(cls, output_dir: str | Path) -> RunFolder:
        """The folder of a finished run; raises BadInput if there is none."""
        folder = cls(output_dir)
        if not folder.recipe.is_file():
            raise BadInput(
                f"{output_dir} is not the folder of a run: it has no run/recipe.yaml.", hint="Name the output_dir of a finished run."
            )
        return folder

    def check_free(self) -> None:
        """Raises OutputExists if the folder holds anything but the log of this very start."""
        if self.output_dir.is_file():
            raise OutputExists(f"{self.output_dir} is a file, not a folder.", hint="Choose another --output-dir.")
        held = (
            [path for path in self.output_dir.rglob("*") if path.is_file() and path != self.debug_log] if self.output_dir.is_dir() else []
        )
        if held:
            raise OutputExists(
                f"The output folder {self.output_dir} is not empty, and nothing is overwritten.",
                hint=f"Choose another one, for example --output-dir {free_name(self.output_dir)}",
            )

    def write_json(self, path: Path, content: Any) -> None:
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    def read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise BadInput(f"{path} cannot be read: {error}.", hint="Run `finetune-cli benchmark OUTPUT_DIR` to make it again.") from None


def free_name(output_dir: Path) -> Path:
    """The first of NAME-2, NAME-3, ... that does not exist."""
    number = 2
    while (candidate := output_dir.with_name(f"{output_dir.name}-{number}")).exists():
        number += 1
    return candidate
