"""Trackers are none by default; a name that is unknown, a package that is missing and a missing sign-in are each one clear sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.training import trackers
from finetune.training.trackers import check_trackers


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nobody is signed in anywhere."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def with_installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: name if name in packages else None)


def test_nobody_is_told_unless_the_recipe_says_so() -> None:
    assert Recipe.from_layers({}).training.report_to == []
    for written in ("tensorboard", ["tensorboard"]):
        assert Recipe.from_layers({"training": {"report_to": written}}).training.report_to == ["tensorboard"]
    assert Recipe.from_layers({"training": {"report_to": None}}).training.report_to == []


def test_an_unknown_tracker_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(RecipeError, match=r"There is no tracker 'tensorbord'\. Did you mean tensorboard\?") as refused:
        Recipe.from_layers({"training": {"report_to": ["tensorbord"]}})
    assert refused.value.hint == f"Choose from {', '.join(registry.BUILT_IN['trackers'])}."


@pytest.mark.parametrize("name", registry.BUILT_IN["trackers"])
def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_installed(monkeypatch)
    with pytest.raises(RecipeError, match=rf"training\.report_to names {name}, but {name} is not installed\.") as refused:
        check_trackers([name])
    assert refused.value.hint == f"Install it: pip install {name}"


@pytest.mark.parametrize("package", ["tensorboard", "tensorboardX"])
def test_either_of_two_packages_will_do(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    with_installed(monkeypatch, package)
    check_trackers(["tensorboard"])


def test_wandb_is_asked_for_a_sign_in_before_it_would_ask_in_the_middle(monkeypatch: pytest.MonkeyPatch, nobody: Path) -> None:
    with_installed(monkeypatch, "wandb")
    with pytest.raises(RecipeError, match=r"wandb is not signed in\.") as refused:
        check_trackers(["wandb"])
    assert refused.value.hint
    assert "WANDB_MODE=offline" in refused.value.hint
    (nobody / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 0123\n")
    check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_BASE_URL", "https://tracks.example")
    with pytest.raises(RecipeError):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])
