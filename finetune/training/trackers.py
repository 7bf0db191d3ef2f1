"""Experiment trackers, which get every step if `training.report_to` names them; none by default.

    check_trackers(["wandb"])          # RecipeError: not installed, or not signed in

Each is transformers' own callback with its own settings, such as WANDB_PROJECT; TensorBoard writes into the run's folder.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from finetune import registry
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Tracker:
    """A tracker that can be used. `packages`: any one will do, the first is suggested; `integration` is transformers' callback."""

    packages: tuple[str, ...]
    integration: str

    def problem(self) -> tuple[str, str] | None:
        """What keeps it from being used now, and what to do."""
        if not any(find_spec(package) for package in self.packages):
            return f"{self.packages[0]} is not installed", f"Install it: pip install {self.packages[0]}"
        return None

    def callback(self, folder: Path) -> TrainerCallback:
        """Made when training begins; `folder` is for what it writes on this disk."""
        made: TrainerCallback = getattr(import_module("transformers.integrations"), self.integration)()
        return made


class TensorBoard(Tracker):
    packages = ("tensorboard", "tensorboardX")
    integration = "TensorBoardCallback"

    def callback(self, folder: Path) -> TrainerCallback:
        made: Any = super().callback(folder)
        made.logging_dir = made.logging_dir or str(folder / "tensorboard")  # TENSORBOARD_LOGGING_DIR comes first
        return cast("TrainerCallback", made)


class WeightsAndBiases(Tracker):
    packages = ("wandb",)
    integration = "WandbCallback"

    def problem(self) -> tuple[str, str] | None:
        if found := super().problem():
            return found
        if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or _signed_in():
            return None
        return "wandb is not signed in", "Sign in with `wandb login`, or set WANDB_MODE=offline, which keeps everything on this machine."


class MLflow(Tracker):
    packages = ("mlflow",)
    integration = "MLflowCallback"


class Trackio(Tracker):
    packages = ("trackio",)
    integration = "TrackioCallback"


def check_trackers(names: Sequence[str]) -> None:
    """Raises RecipeError for the first tracker that cannot be used here."""
    for name in names:
        if problem := registry.load("trackers", name)().problem():
            what, hint = problem
            raise RecipeError(f"training.report_to names {name}, but {what}.", hint=hint)


def _signed_in() -> bool:
    """Whether `wandb login` left a key for the server that is used."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    places = [os.environ.get("NETRC"), *map(os.path.expanduser, ("~/.netrc", "~/_netrc"))]
    for place in filter(None, places):
        try:
            if netrc.netrc(str(place)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
