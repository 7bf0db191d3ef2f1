"""`epochs: auto`: three passes, more over few rows, fewer where time is short; a number in the run's recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from workshop import Workshop

from finetune.events import Notice
from finetune.planning import epochs, shape


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def auto(shop: Workshop, **dataset: object) -> dict[str, object]:
    layer = shop.layer(training={"epochs": "auto", "batch_size": 6, "learning_rate": 0.01})
    return {**layer, "dataset": {**layer["dataset"], **dataset}}


@pytest.mark.parametrize(("seen", "passes"), [(1, 3), (24 * 5, 5), (24 * 50, 20)])
def test_few_rows_are_seen_more_often_than_three_times_but_not_without_end(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, seen: int, passes: int
) -> None:
    monkeypatch.setattr(epochs, "SEEN", seen)
    tuner = shop.tuner(auto(shop))
    plan = tuner.plan()
    assert tuner.recipe.training.epochs == passes
    assert plan.rows == 24
    assert plan.steps == 4 * passes


def test_where_time_is_short_there_are_fewer_passes_and_a_word_about_it(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "SEEN", 1)
    monkeypatch.setattr(epochs, "LONGEST", 0.0)
    tuner = shop.tuner(auto(shop))
    tuner.plan()
    assert tuner.recipe.training.epochs == 1
    notices = [event.text for recorder in tuner.reporter.reporters for event in recorder.events if isinstance(event, Notice)]
    assert [text for text in notices if text.startswith("1 epoch instead of 3") and "--set training.epochs=3" in text]


def test_a_number_of_epochs_stays_and_the_rows_are_not_asked(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer())
    assert epochs.settled(tuner.context) is tuner.context
    assert "data" not in vars(tuner.context)


def test_the_run_writes_down_how_many_epochs_it_made(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "SEEN", 1)
    result = shop.tuner(auto(shop)).run()
    written = yaml.safe_load((result.output_dir / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert written["training"]["epochs"] == 3.0
    assert result.training["steps"] == 12


def test_a_method_is_attached_for_counting_once_and_again_with_other_settings(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, count = [], shape.what_learns

    def counted(located: object, method: object, spec: object, **more: object) -> object:
        ranks.append(spec.r)  # type: ignore[attr-defined]
        return count(located, method, spec, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(shape, "what_learns", counted)
    tuner = shop.tuner(auto(shop) | {"method": {"kind": "lora", "r": 4}})
    tuner.check()
    tuner.plan()
    tuner.plan()
    changed = tuner.context.beside(recipe=tuner.recipe.with_changes({"method": {"r": 8}}))
    assert shape.shape_of(changed).learning.trainable == 2 * shape.shape_of(tuner.context).learning.trainable
    assert ranks == [4, 8]
