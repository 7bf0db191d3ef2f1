"""A tracker is told every step of a training, and can end none."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerCallback
from workshop import Workshop

from finetune import registry
from finetune.errors import RecipeError
from finetune.events import Notice, TrainingStep, read_events
from finetune.training import trackers

TRAINING = {"epochs": 2, "batch_size": 6, "learning_rate": 0.01}


def test_tensorboard_gets_the_loss_of_every_step_and_keeps_it_with_the_run(shop: Workshop) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tuner = shop.tuner(shop.layer(training={**TRAINING, "report_to": "tensorboard"}))
    tuner.train()
    written = accumulator.EventAccumulator(str(tuner.folder.run / "tensorboard"))
    written.Reload()
    steps = [record for record in read_events(tuner.folder.events) if record["event"] == TrainingStep.name]
    assert len(steps) == 8
    told = {scalar.step: scalar.value for scalar in written.Scalars("train/loss")}
    assert told == pytest.approx({step["step"]: step["loss"] for step in steps})
    assert {"train/learning_rate", "train/grad_norm"} <= set(written.Tags()["scalars"])
    for name in ("tokens_per_second", "memory_bytes"):
        told = {scalar.step: scalar.value for scalar in written.Scalars(f"train/{name}")}
        assert told == pytest.approx({step["step"]: step[name] for step in steps}, rel=1e-6)


def test_the_weights_are_the_same_with_and_without_a_tracker(shop: Workshop) -> None:
    folders = []
    for report_to in ([], ["tensorboard"]):
        tuner = shop.tuner(shop.layer(training={**TRAINING, "report_to": report_to}))
        tuner.train()
        folders.append(tuner.folder)
    first, second = ((folder.output_dir / "adapter_model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert not (folders[0].run / "tensorboard").exists()


class Broken(trackers.Tracker):
    """Loses its connection at a step of the training, or at once."""

    packages = ("json",)
    at = 0

    def callback(self, folder: Path) -> TrainerCallback:
        class Losing(TrainerCallback):
            def on_log(self, args, state, control, **kwargs):
                if state.global_step >= Broken.at:
                    raise ConnectionError("the line is dead\nand more")

        if not self.at:
            raise RuntimeError
        return Losing()


@pytest.mark.parametrize(("at", "why"), [(3, "the line is dead"), (0, "RuntimeError")])
def test_a_tracker_that_fails_is_left_alone_and_the_training_goes_on(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, at: int, why: str
) -> None:
    monkeypatch.setitem(registry.BUILT_IN["trackers"], "broken", f"{__name__}:Broken")
    monkeypatch.setattr(Broken, "at", at)
    tuner = shop.tuner(shop.layer(training={**TRAINING, "report_to": ["broken"]}))
    assert tuner.train().complete
    said = [record["text"] for record in read_events(tuner.folder.events) if record["event"] == Notice.name and "broken" in record["text"]]
    assert said == [f"broken failed ({why}); training continues without it."]


def test_what_cannot_be_told_is_found_before_the_training(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    tuner = shop.tuner(shop.layer(training={**TRAINING, "report_to": "mlflow"}))
    with pytest.raises(RecipeError, match="mlflow is not installed"):
        tuner.train()
    assert not tuner.folder.output_dir.exists()
