"""Several processes run a teacher, each over a share of the rows: the same files as one process writes, whoever dies in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forks import Forks, job, log
from lengths import few
from pico import pico, pico_rows
from several_processes import TOLERANCE, compare
from workshop import Workshop

from finetune.distillation.caches.builder import build_cache, write_share
from finetune.distillation.caches.on_disk import TeacherCache, model_identity
from finetune.distillation.terms.internals import Compared
from finetune.errors import TrainingError
from finetune.events import Progress, Recorder, read_events
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.training.head import head_of

SHARD_BYTES = 2000
ROWS = pico_rows(30)


def share(folder: Path, number: int, of: int, *, seed: int = 1, most: int | None = None, compared: Compared | None = None) -> None:
    """What one of several processes does; after `most` shards it is gone."""

    class Mortal(Recorder):
        def report(self, event: Any) -> None:
            super().report(event)
            if len({each.done for each in self.of(Progress)}) > (most or 1000):
                raise KeyboardInterrupt

    teacher = pico("llama", seed=seed)
    more = {"vocabulary": head_of(teacher).vocabulary, "teacher_identity": model_identity(teacher), "compared": compared}
    write_share("hidden", teacher, ROWS, folder, (number, of), reporter=Mortal(), shard_bytes=SHARD_BYTES, **more)


def built(folder: Path, others: Any = None, reporter: Recorder | None = None, compared: Compared | None = None) -> TeacherCache:
    more: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "others": others, "reporter": reporter, "compared": compared}
    return build_cache("hidden", pico("llama", seed=1), ROWS, folder, **more)


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files; of the head the tensors, because safetensors writes its two facts in any order."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    if head := found.get("head.safetensors"):
        found["head.safetensors"] = head[8 + int.from_bytes(head[:8], "little") :]
    return found


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.safetensors")}


@pytest.mark.parametrize("compared", [None, Compared(FeaturesSpec(layers="auto", relations=["v"]), [0, 2])], ids=["plain", "inside too"])
def test_three_shares_are_the_cache_of_one(compared: Compared | None, tmp_path: Path) -> None:
    built(tmp_path / "one", compared=compared)
    recorder = Recorder()
    place = tmp_path / "three"
    built(place, lambda: [share(place, number, 3, compared=compared) for number in (2, 0, 1)], recorder, compared)
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert [event.done for event in recorder.of(Progress)] == [recorder.of(Progress)[0].total], "nothing was left to do"


def test_what_was_finished_is_kept_and_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    built(tmp_path / "one")
    folder = tmp_path / "shared"

    def some_die() -> None:
        share(folder, 1, 3)
        share(folder, 0, 3, most=2)

    with pytest.raises(KeyboardInterrupt):
        built(folder, some_die)
    with pytest.raises(TrainingError, match="complete teacher cache"):
        TeacherCache.open(folder)
    finished = times(folder)
    assert len(finished) > 4
    built(folder, lambda: [share(folder, number, 2) for number in range(2)])
    assert files(folder) == files(tmp_path / "one")
    assert {name: times(folder)[name] for name in finished} == finished


def test_a_process_that_is_started_again_goes_on_with_its_share(tmp_path: Path) -> None:
    def again() -> None:
        with pytest.raises(KeyboardInterrupt):
            share(tmp_path, 0, 2, most=2)
        finished = times(tmp_path)
        share(tmp_path, 1, 2)
        share(tmp_path, 0, 2)
        assert len(finished) >= 2
        assert {name: times(tmp_path)[name] for name in finished} == finished

    cache = built(tmp_path, again)
    assert cache.rows == len(ROWS)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["index.json"]


def test_what_the_others_did_not_write_this_process_writes(tmp_path: Path) -> None:
    built(tmp_path / "one")
    built(tmp_path / "left", lambda: share(tmp_path / "left", 1, 2))
    assert files(tmp_path / "left") == files(tmp_path / "one")


def test_another_teacher_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is for a different teacher in process 1"):
        built(tmp_path, lambda: share(tmp_path, 1, 2, seed=2))
    assert not times(tmp_path)


def caches(shop: Workshop, name: str) -> dict[str, dict[str, bytes]]:
    """Every cache in a folder for them, by the digest that it is called by."""
    return {folder.name: files(folder) for folder in (shop.folder / name / "teachers").iterdir() if folder.name != "asked"}


CASES: dict[str, Any] = {
    "hidden": {"distillation": {"cache": "hidden"}},
    "gradient": {"distillation": {"cache": "gradient"}, "method": {"kind": "lora", "dropout": 0.0}, "model": "smaller"},
    "itself": {"distillation": {"cache": "hidden"}, "teacher": "self", "method": {"kind": "lora", "dropout": 0.0}, "model": "base"},
}


@pytest.mark.parametrize("name", few(CASES, "hidden"))
def test_two_processes_write_the_cache_of_one_and_the_student_learns_the_same(name: str, forks: Forks, shop: Workshop) -> None:
    case = dict(CASES[name])
    case["model"] = {"smaller": str(shop.smaller_model()), "base": str(shop.model)}.get(case.get("model"), {"from_teacher": {"layers": 2}})
    layers = [shop.distilling(**case, training={"epochs": 1, "batch_size": 6, "learning_rate": 3e-4}) for _ in range(2)]
    for processes, layer in enumerate(layers, 1):
        done = job(shop, layer, processes=processes, shard_bytes=SHARD_BYTES) | {"cache": str(shop.folder / f"{name}-{processes}")}
        assert forks.run(done) == 0, log(shop)
    one, two = (caches(shop, f"{name}-{processes}") for processes in (1, 2))
    assert one == two
    assert len(next(iter(one.values()))) > 5
    found = compare(*layers)
    assert max(found.loss, found.weight) <= TOLERANCE
    said = [record["text"] for record in read_events(Path(layers[1]["output_dir"]) / "run" / "events.jsonl") if record["event"] == "notice"]
    assert "2 processes run the teacher, each on its share of the rows." in said


def test_a_process_that_is_killed_ends_the_run_which_goes_on_with_what_was_finished(forks: Forks, shop: Workshop) -> None:
    layer = shop.distilling(distillation={"cache": "hidden"})
    killed = job(shop, layer, processes=2, shard_bytes=SHARD_BYTES) | {"cache": str(shop.folder / "killed")}
    assert forks.run({**killed, "break": "shard"}) == 1
    assert "TrainingError: Process 1 that ran the teacher was ended by SIGKILL." in log(shop)
    assert "Finished parts are kept. Continue: finetune-cli resume" in log(shop)
    (folder,) = (path for path in (shop.folder / "killed" / "teachers").iterdir() if path.name != "asked")
    indexes = [json.loads(path.read_text()) for path in folder.glob("index*.json")]
    named = {
        shard["file"] for index in indexes for shard in index["shards"]
    }  # the other process was ended too, perhaps before it named one
    finished = {name: time for name, time in times(folder).items() if name in named}
    assert len(finished) >= 2
    assert forks.run({**killed, "processes": 1}) == 0, log(shop)
    assert {name: times(folder)[name] for name in finished} == finished
    assert TeacherCache.open(folder).rows == 24
