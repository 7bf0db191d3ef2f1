"""Two workers of Ray make the run of one process, also where one is lost on the way; and what Ray needs is said before the run."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from several_processes import TOLERANCE, compare, layer_of
from workshop import Workshop

from finetune import LLMFineTuner, Recipe
from finetune.distillation.caches import builder as cache_builder
from finetune.errors import BadInput
from finetune.events import Notice, Recorder, Resumed, TrainingStep

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


class LoseWorker(Recorder):
    """Kills a worker of Ray after a step, once."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.lost = step, 0

    def report(self, event: Any) -> None:
        super().report(event)
        if isinstance(event, TrainingStep) and event.step == self.step and not self.lost:
            workers = [
                each for each in psutil.Process().children(recursive=True) if "RayTrainWorker" in each.name() + " ".join(each.cmdline())
            ]
            assert len(workers) == 2
            workers[1].kill()
            self.lost = workers[1].pid


def tuner(shop: Workshop, layer: dict[str, Any], reporter: Recorder | None = None, **options: Any) -> LLMFineTuner:
    runtime = replace(shop.runtime, engine="ray", **options)
    return LLMFineTuner(Recipe.from_layers(layer), runtime=runtime, reporter=reporter or Recorder())


@needs_ray
@pytest.mark.slow
def test_two_workers_ask_a_teacher_and_train_as_one_process_does_although_one_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop(tmp_path)
    layers = [layer_of(shop, "hidden cache") for _ in range(2)]
    for layer in layers:
        layer["training"] |= {"save_every": 1, "epochs": 8}
    shop.tuner(layers[0]).train()
    monkeypatch.setattr(cache_builder, "SHARD_BYTES", 2000)
    shop.runtime = replace(shop.runtime, cache_dir=tmp_path / "another")
    reporter = LoseWorker(step=5)
    on_ray = tuner(shop, layers[1], reporter, processes=2)
    outcome = on_ray.train()
    assert reporter.lost
    assert outcome.complete
    (again,) = reporter.of(Resumed)
    assert 4 <= again.step < 16
    assert f"A worker was lost; all of them continue after step {again.step}." in [notice.text for notice in reporter.of(Notice)]
    assert "2 processes run the teacher, each on its share of the rows." in [notice.text for notice in reporter.of(Notice)]
    found = compare(*layers)
    assert max(found.loss, found.weight) <= TOLERANCE
    assert not (Path(layers[1]["output_dir"]) / "run" / "workers").exists()


@needs_ray
@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "The engine `ray` needs the number of workers"), ({"processes": 2, "nodes": 2, "rendezvous": "a:1"}, "Ray knows the nodes")],
)
def test_what_is_rays_business_is_refused_before_the_run(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    with pytest.raises(BadInput, match=words):
        tuner(shop, shop.layer(), **options).check()


def test_without_the_package_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop(tmp_path)
    monkeypatch.setattr("finetune.engines.on_ray.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs the package ray") as refused:
        tuner(shop, shop.layer(), processes=2).check()
    assert str(refused.value.hint) == "Install it: pip install 'ray[train]'"
