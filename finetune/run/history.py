"""The runs below a folder, from their own records. No torch, and only files that are small.

for run in find_runs(Path(".")):
    run.name, run.state, run.scores["after"]["rougeL"]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.benchmark.names import IN_SHORT, retained
from finetune.benchmark.student_verdict import verdict_on
from finetune.errors import BadInput, FolderInUse
from finetune.events import TrainingStep
from finetune.foreign import RECIPE_BYTES, printable, reading, reason
from finetune.formatting import kept, spoken
from finetune.recipe import Recipe
from finetune.recipe.teacher_settings import SELF, name_of, teachers_of
from finetune.registry import title
from finetune.run.resume import find
from finetune.run_folder import FINISHED, TRAINING, RunFolder
from finetune.system.paths import looking_at, typed_path

PASSED_OVER = {"node_modules", "site-packages", "__pycache__"}
TAIL = 1 << 16  # bytes of events.jsonl in which the last step is looked for
UNFINISHED, RUNNING, UNREADABLE = "unfinished", "running", "unreadable"


@dataclass(frozen=True)
class Run:
    """One run: `state` is finished, unfinished, running or unreadable, `progress` how far it came, `when` seconds since 1970.

    `recipe`, every default filled in, and `scores` (benchmark.json) are empty where they are not there.
    """

    name: str
    folder: RunFolder
    state: str
    progress: str
    recipe: Mapping[str, Any]
    scores: Mapping[str, Any]
    when: float

    @property
    def approach(self) -> str:
        return str(self.recipe.get("approach", ""))

    @property
    def model(self) -> str:
        """The model that is trained; for a student made from its teacher: "20 of the layers of TEACHER"."""
        model = self.recipe.get("model", "")
        if isinstance(model, Mapping):
            return f"{kept(model['from_teacher'], 'the')} of {self.teacher}"
        return str(model)

    @property
    def teacher(self) -> str:
        return " + ".join(map(name_of, teachers_of(self.recipe)))

    @property
    def what(self) -> str:
        """What was done, to which model: "distillation of gpt2-medium into gpt2"."""
        if self.approach != "distillation":
            return f"{self.approach} of {self.model}"
        if self.teacher == SELF:
            return f"distillation of {self.model} from itself"
        model = self.recipe.get("model")
        made = f"a student with {kept(model['from_teacher'], 'its')}" if isinstance(model, Mapping) else self.model
        return f"distillation of {self.teacher} into {made}"

    @property
    def method(self) -> str:
        return title("methods", str((self.recipe.get("method") or {}).get("kind", "")))

    @property
    def data(self) -> str:
        return str((self.recipe.get("dataset") or {}).get("source", ""))

    def to_dict(self) -> dict[str, Any]:
        """For --json: the plain scores, the verdict on each change, and of a student what it keeps of its teacher."""
        changes, student = self.scores.get("change") or {}, verdict_on(self.scores)
        return {
            "output_dir": str(self.folder.output_dir),
            "approach": self.approach,
            "model": self.model,
            "teacher": self.teacher or None,
            "method": self.method,
            "data": self.data,
            "state": self.state,
            "progress": self.progress,
            "when": self.when,
            "scores": {side: self.scores[side] for side in ("teacher", "before", "after") if self.scores.get(side)},
            "verdicts": {metric: change["verdict"] for metric, change in changes.items()},
            "student": student.word if student else None,
            "retention": dict(retained(self.scores)) or None,
        }


def find_runs(where: str | Path) -> list[Run]:
    """The runs in a folder and everything below it, latest first; raises BadInput if there is no such folder."""
    top = typed_path(where)
    with looking_at(where):
        found = top.is_dir()
    if not found:
        raise BadInput(f"There is no folder {where}.", hint="Name the folder that your runs are in: finetune-cli runs FOLDER")
    return sorted((read_run(place, _name(place, top)) for place in _places(top)), key=lambda run: -run.when)


def read_run(output_dir: Path, name: str | None = None) -> Run:
    """One run; what cannot be read makes it unreadable, and nothing is raised."""
    folder = RunFolder(output_dir)
    recipe: Mapping[str, Any] = {}
    scores: Mapping[str, Any] = {}
    try:
        with reading(folder.recipe):
            recipe, scores, state, progress = _read(folder)
    except BadInput as error:
        state, progress = UNREADABLE, reason(error.__cause__) if error.__cause__ else error.message
    newest = folder.benchmark if scores else folder.progress if folder.progress.is_file() else folder.recipe
    return Run(printable(name or output_dir.name), folder, state, progress, recipe, scores, newest.stat().st_mtime)


def _read(folder: RunFolder) -> tuple[Mapping[str, Any], Mapping[str, Any], str, str]:
    """Recipe, scores, state and progress; raises anything at all for what is no run of ours."""
    if folder.recipe.stat().st_size > RECIPE_BYTES:
        raise ValueError("run/recipe.yaml is not a recipe: it is too long")
    loaded = yaml.load(folder.recipe.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(loaded, dict):
        raise ValueError("run/recipe.yaml is not a recipe")
    recipe = Recipe.from_layers(loaded).model_dump(mode="json")
    scores = json.loads(folder.benchmark.read_text(encoding="utf-8")) if folder.benchmark.is_file() else {}
    if not isinstance(scores, dict):
        raise ValueError("run/benchmark.json has no scores")
    run = Run("", folder, "", "", recipe, scores, 0.0)
    run.to_dict()  # whatever is shown of a run must be there
    for metric in IN_SHORT:
        for side in ("before", "after"):
            float((scores.get(side) or {}).get(metric, 0.0))
    return recipe, scores, *_state(folder)


def _state(folder: RunFolder) -> tuple[str, str]:
    if folder.stage == FINISHED:
        return FINISHED, ""
    left = find(folder.output_dir)
    assert left is not None  # there is a recipe, so there is a stage
    try:
        folder.check_unclaimed()
    except FolderInUse:
        step = _last_step(folder.events) if left.stage == TRAINING else None
        return RUNNING, f"step {step['step']:,} of {step['total_steps']:,}, {spoken(step['seconds_left'])} left" if step else left.stage
    return UNFINISHED, left.progress()


def _last_step(events: Path) -> dict[str, Any] | None:
    with events.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and record.get("event") == TrainingStep.name:
            return dict(record)
    return None


def _places(top: Path) -> Iterator[Path]:
    """Output folders; hidden folders, libraries and what is inside a run are not looked at."""
    for place, folders, _ in os.walk(top):
        if "run" in folders and Path(place, "run", "recipe.yaml").is_file():
            yield Path(place)
            folders.remove("run")
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in PASSED_OVER)


def _name(place: Path, top: Path) -> str:
    return place.resolve().name if place == top else str(place.relative_to(top))
