"""The trackers of a recipe as callbacks of the Trainer; one that fails never stops the training.

callbacks = tracking(recipe, folder.run, reporter, lambda: {"tokens_per_second": 341.0})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune import registry
from finetune.events import Notice, Reporter
from finetune.recipe import Recipe


def tracking(recipe: Recipe, folder: Path, reporter: Reporter, beside: Callable[[], Mapping[str, float]] = dict) -> list[TrainerCallback]:
    """A callback for each tracker of the recipe; `folder` is the run's, `beside` the numbers of a step that the Trainer does not log."""
    trackers = {name: registry.load("trackers", name)() for name in recipe.training.report_to}
    return [TrackerCallback(name, lambda tracker=tracker: tracker.callback(folder), reporter, beside) for name, tracker in trackers.items()]  # type: ignore[misc]


class TrackerCallback(TrainerCallback):
    """Passes start, logs and end to a tracker; after a failure it is not called again, and training continues."""

    def __init__(
        self, name: str, make: Callable[[], TrainerCallback], reporter: Reporter, beside: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        self.name, self.make, self.reporter, self.beside = name, make, reporter, beside
        self.tracker: TrainerCallback | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_train_begin", args, state, control, kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "loss" in (logs := kwargs.get("logs") or {}):
            kwargs["logs"] = {**logs, **self.beside()}
        self._tell("on_log", args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell("on_train_end", args, state, control, kwargs)

    def _tell(self, event: str, args: Any, state: Any, control: Any, more: dict[str, Any]) -> None:
        try:
            if event == "on_train_begin":
                self.tracker = self.make()
            if self.tracker is not None:
                getattr(self.tracker, event)(args, state, control, **more)
        except Exception as error:  # noqa: BLE001  whatever goes wrong in somebody's tracker
            self.tracker = None
            why = (str(error).splitlines() or [type(error).__name__])[0]
            self.reporter.report(Notice(f"{self.name} failed ({why}); training continues without it.", "warning"))
