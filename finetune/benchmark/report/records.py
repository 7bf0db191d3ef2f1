"""The records of a run, as far as they exist; the report page is made from these alone.

records = read_records(RunFolder.of("./finetuned_model"))
records.steps[-1]["loss"], records.recipe["training"]["epochs"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.events import (
    CheckpointSaved,
    HeldOutLoss,
    ModelReady,
    Notice,
    Planned,
    Resumed,
    RoundFinished,
    StageFinished,
    StageStarted,
    TrainingFinished,
    TrainingStep,
    read_events,
)
from finetune.recipe import read_yaml
from finetune.run_folder import RunFolder


@dataclass(frozen=True)
class Records:
    """`scores` is benchmark.json, `data` data_report.json, `student` student.json, `exports` export.json; what is unknown is empty."""

    output_dir: Path
    scores: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    student: Mapping[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    exports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.output_dir.resolve().name

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One record per step, in order, counted through all rounds; of a repeated step `read_events` returns the last."""
        steps, before = [], 0
        for record in self.events:
            if record.get("event") == TrainingStep.name:
                steps.append({**record, "step": before + record["step"]})
            elif record.get("event") == RoundFinished.name:
                before += record["steps"]
        return steps

    @property
    def held_out(self) -> list[tuple[float, float]]:
        """(step, loss) of every measurement on rows that were not trained on."""
        return [(record["step"], record["loss"]) for record in self._of(HeldOutLoss.name)]

    @property
    def training(self) -> dict[str, Any]:
        """The totals of the training."""
        return next(iter(reversed(self._of(TrainingFinished.name))), {})

    @property
    def linear_share(self) -> float:
        """The share of the weights in linear layers that learned."""
        return float(next((record.get("linear_share", 1.0) for record in reversed(self._of(ModelReady.name))), 1.0))

    @property
    def alignment(self) -> str:
        """How much of the text teachers with other tokenizers could be compared on."""
        plan: Mapping[str, Any] = next((record["plan"] for record in reversed(self._of(Planned.name))), {})
        return " ".join(plan.get("alignment", []))

    @property
    def stages(self) -> list[tuple[str, float]]:
        """(title, seconds) of every finished stage; stages with the same title are added up."""
        titles: dict[str, str] = {}
        seconds: dict[str, float] = {}
        for record in self.events:
            if record.get("event") == StageStarted.name:
                titles[record["stage"]] = record["title"]
            elif record.get("event") == StageFinished.name:
                title = titles.get(record["stage"], record["stage"])
                seconds[title] = seconds.get(title, 0.0) + record["seconds"]
        return list(seconds.items())

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(record["text"] for record in self._of(Notice.name) if record.get("level") == "warning"))

    @property
    def resumed_after(self) -> list[int]:
        return [record["step"] for record in self._of(Resumed.name)]

    @property
    def checkpoints(self) -> int:
        return len(self._of(CheckpointSaved.name))

    @property
    def began(self) -> float | None:
        """Seconds since 1970."""
        return next((float(record["time"]) for record in self.events if "time" in record), None)

    def _of(self, name: str) -> list[dict[str, Any]]:
        return [record for record in self.events if record.get("event") == name]


def read_records(folder: RunFolder) -> Records:
    """Raises BadInput if benchmark.json or another file that is there cannot be read."""
    return Records(
        output_dir=folder.output_dir,
        scores=folder.read_json(folder.benchmark),
        recipe=read_yaml(folder.recipe) if folder.recipe.is_file() else {},
        environment=folder.known(folder.environment),
        data=folder.known(folder.data_report),
        student=folder.known(folder.student),
        events=read_events(folder.events),
        exports=folder.exports,
    )
