"""Every source of rows in the registry: a seed decides them, what is there is not made again, two processes learn from the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from babble import babbling_folder
from forks import Forks, job, log
from several_processes import TOLERANCE, compare
from workshop import Workshop

from finetune import LLMFineTuner, registry
from finetune.events import Recorder
from finetune.runtime import RuntimeOptions
from finetune.sources import answered, author

SOURCES: dict[str, dict[str, Any]] = {
    "dataset": {},
    "generated": {"source": "generated", "samples": 24},
    "answered": {"answers": "teacher"},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("sources"))
    babbling_folder(made.folder / "talker")
    return made


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(author, "BATCH", 8)
    monkeypatch.setattr(answered, "BATCH", 8)


def layer_of(shop: Workshop, name: str, **more: Any) -> dict[str, Any]:
    rows = {"source": str(shop.rows), "samples": None, "max_length": 64, "held_out": 0.25, **SOURCES[name]}
    return shop.distilling(teacher=str(shop.folder / "talker"), dataset=rows, **more)


def tuner_of(shop: Workshop, name: str, cache: Path, **more: Any) -> LLMFineTuner:
    runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=cache)
    return LLMFineTuner(layer_of(shop, name, **more), reporter=Recorder(), runtime=runtime)


def rows_of(tuner: LLMFineTuner) -> list[list[int]]:
    made = tuner.prepare_data()
    return [list(row["input_ids"]) for part in (made.train, made.held_out) for row in part]


def test_every_source_is_tested() -> None:
    assert [*SOURCES] == registry.names("sources")


@pytest.mark.parametrize("name", SOURCES)
def test_a_seed_decides_the_rows_and_those_that_are_there_are_not_made_again(name: str, shop: Workshop, tmp_path: Path) -> None:
    first, other, again = (tuner_of(shop, name, tmp_path / cache) for cache in "aba")
    assert first.recipe.dataset.kind == name
    planned = first.plan()
    assert planned.rows + planned.held_out_rows >= 20
    assert not list(tmp_path.rglob("generated")), "a plan has nothing written"
    rows = rows_of(first)
    assert rows == rows_of(other), "in another cache, so made anew"
    assert not again.context.source.missing(again.context)
    assert again.plan().making is None
    assert rows_of(again) == rows
    assert again.data.fingerprint == first.data.fingerprint == other.data.fingerprint
    assert rows_of(tuner_of(shop, name, tmp_path / "a", seed=7)) != rows


@pytest.mark.long
def test_two_processes_learn_from_rows_that_were_written_once(forks: Forks, shop: Workshop) -> None:
    training = {"epochs": 1, "batch_size": 6, "learning_rate": 3e-5}
    layers = [layer_of(shop, "generated", training=training, method={"kind": "full"}) for _ in range(2)]
    for processes, layer in enumerate(layers, 1):
        assert forks.run(job(shop, layer, processes=processes)) == 0, log(shop)
    found = compare(*layers)
    assert max(found.loss, found.weight) <= TOLERANCE
