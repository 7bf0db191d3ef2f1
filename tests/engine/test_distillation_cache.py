"""The teacher's answers on disk: resumed, checked, replaced, refused; and which kind a run gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import pico, pico_rows

from finetune import registry
from finetune.distillation.caches import builder as cache_builder
from finetune.distillation.caches.builder import build_cache, cache_key, supervised_counts
from finetune.distillation.caches.choice import choose_cache, signals_for
from finetune.distillation.caches.on_disk import TeacherCache, model_identity, rows_hash, write_file
from finetune.distillation.signals import bytes_of
from finetune.errors import FinetuneError, RecipeError, TrainingError
from finetune.events import Notice, Progress, Recorder
from finetune.formatting import size
from finetune.system import storage
from finetune.training.head import Head, head_of

ROWS = pico_rows(30)
SMALL = 2000  # bytes: some ten shards


def frozen_head(model: Any) -> Head:
    return head_of(model).detach()


def built(
    folder: Path, reporter: Recorder | None = None, *, rows: list[dict] = ROWS, seed: int = 1, kind: Any = "hidden", **more: Any
) -> TeacherCache:
    return build_cache(kind, pico("llama", seed=seed), rows, folder, reporter=reporter, shard_bytes=SMALL, **more)


def everything(cache: TeacherCache) -> torch.Tensor:
    return cache.read(range(len(ROWS)), supervised_counts(ROWS))[0]


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def test_a_row_finds_its_own_states_in_any_order(tmp_path) -> None:
    teacher, cache = pico("llama", seed=1), built(tmp_path)
    counts = supervised_counts(ROWS)
    assert len(cache.shards) > 5
    assert (cache.rows, cache.tokens) == (len(ROWS), sum(counts))
    (values,) = cache.read([17, 3, 29], [counts[17], counts[3], counts[29]])
    expected = []
    for row in (17, 3, 29):
        states = teacher.model(input_ids=torch.tensor([ROWS[row]["input_ids"]])).last_hidden_state[0, :-1]
        expected.append(states[torch.tensor(ROWS[row]["labels"][1:]) != -100])
    torch.testing.assert_close(values, torch.cat(expected).detach(), rtol=1e-4, atol=1e-5)


def test_the_disk_need_said_beforehand_is_the_disk_need(tmp_path) -> None:
    student = frozen_head(pico("llama"))
    for kind in signals_for(spans=False):
        cache = built(tmp_path / kind, kind=kind, student_head=student, temperature=2.0)
        head = cache.head.weight.nbytes if cache.head is not None else 0
        said = bytes_of(registry.load("signals", kind), cache.tokens, student, student) - head
        overhead = sum(400 + 8 * shard.rows for shard in cache.shards)
        assert said <= cache.nbytes <= said + overhead


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("kind", [*signals_for(spans=False), "top_k"])
def test_the_room_that_is_wanted_is_all_that_is_written(kind: str, margins: bool, tmp_path, monkeypatch) -> None:
    wanted: list[int] = []
    monkeypatch.setattr(cache_builder, "check_room", lambda what, needed, folder, instead: wanted.append(needed))
    cache = built(tmp_path, kind=kind, student_head=frozen_head(pico("llama")), temperature=2.0, margins=margins)
    written = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    overhead = sum(400 + 8 * shard.rows for shard in cache.shards) + 400
    assert written - overhead <= wanted[0] <= written
    assert all(shard.bytes <= SMALL + 400 + 8 * shard.rows for shard in cache.shards if shard.rows > 1)


def test_shards_of_another_size_stay_and_only_what_is_missing_is_written(tmp_path) -> None:
    whole = everything(built(tmp_path))
    first, *between, _, last = sorted(shards_of(tmp_path))
    times = {path: path.stat().st_mtime_ns for path in (first, last)}
    for path in (None, *between):
        if path:
            path.unlink()
        recorder = Recorder()
        cache = build_cache("hidden", pico("llama", seed=1), ROWS, tmp_path, shard_bytes=3 * SMALL, reporter=recorder)
        assert len(recorder.of(Notice)) == (path is not None), "what is not there any more is said"
        assert {path: path.stat().st_mtime_ns for path in (first, last)} == times
        assert {path.name for path in shards_of(tmp_path)} == {shard.file for shard in cache.shards}
        torch.testing.assert_close(everything(cache), whole, rtol=1e-5, atol=1e-6)


def test_of_shards_that_have_the_same_rows_one_is_kept(tmp_path) -> None:
    whole = everything(built(tmp_path))
    index = json.loads((tmp_path / "index.json").read_text())
    twice = {**index["shards"][1], "file": "shard-99999999.safetensors"}
    shutil.copy(tmp_path / index["shards"][1]["file"], tmp_path / twice["file"])
    (tmp_path / "index.json").write_text(json.dumps({**index, "shards": [*index["shards"], twice]}))
    recorder = Recorder()
    cache = built(tmp_path, recorder)
    assert [said.text for said in recorder.of(Notice)] == [
        f"Teacher cache: {tmp_path / twice['file']} has rows of another file too; it is left out."
    ]
    assert {path.name for path in shards_of(tmp_path)} == {shard.file for shard in cache.shards}
    torch.testing.assert_close(everything(cache), whole, rtol=1e-5, atol=1e-6)


def test_a_finished_cache_is_not_made_again(tmp_path) -> None:
    built(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in shards_of(tmp_path)}
    again = Recorder()
    built(tmp_path, again)
    assert {path: path.stat().st_mtime_ns for path in shards_of(tmp_path)} == times
    assert [event.done for event in again.of(Progress)] == [again.of(Progress)[0].total]


def test_what_another_arithmetic_wrote_is_used_and_said(tmp_path) -> None:
    build_cache("hidden", pico("llama"), pico_rows(4), tmp_path)
    path, said = tmp_path / "index.json", []
    index = json.loads(path.read_text())
    elsewhere = {**index["written_with"], "threads": 64, "torch": "2.0.1"}
    for written_with in (index["written_with"], elsewhere, elsewhere, {}):  # an older version did not say
        path.write_text(json.dumps({**index, "written_with": written_with}))
        recorder = Recorder()
        build_cache("hidden", pico("llama"), pico_rows(4), tmp_path, reporter=recorder)
        said.append([notice.text for notice in recorder.of(Notice)])
    words = f"(threads 64, here {torch.get_num_threads()}; torch 2.0.1, here {index['written_with']['torch']})"
    told = f"The teacher's outputs in {tmp_path} were written under other conditions {words}: last digits can differ."
    assert said == [[], [told], [told], []]


def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path) -> None:
    class Impatient(Recorder):
        def report(self, event: Any) -> None:
            super().report(event)
            if isinstance(event, Progress) and len(self.events) == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, Impatient())
    finished = {path: path.stat().st_mtime_ns for path in shards_of(tmp_path)}
    assert len(finished) == 3
    with pytest.raises(TrainingError, match="complete teacher cache"):
        TeacherCache.open(tmp_path)
    cache = built(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    torch.testing.assert_close(everything(cache), everything(built(tmp_path / "whole")), rtol=0, atol=0)


@pytest.mark.parametrize(("damage", "said"), [("cut", "bytes instead of"), ("changed", "has changed"), ("gone", "is missing")])
def test_a_damaged_shard_is_named_and_only_it_is_made_again(damage: str, said: str, tmp_path) -> None:
    before = everything(built(tmp_path))
    victim = shards_of(tmp_path)[2]
    untouched = {path: path.stat().st_mtime_ns for path in shards_of(tmp_path) if path != victim}
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(content[:-8] if damage == "cut" else content[:-8] + b"\x01" * 8)
    recorder = Recorder()
    cache = built(tmp_path, recorder)
    (notice,) = recorder.of(Notice)
    assert victim.name in notice.text
    assert said in notice.text
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    torch.testing.assert_close(everything(cache), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 2}, "teacher"), ({"rows": pico_rows(30, seed=5)}, "rows"), ({"kind": "gradient", "temperature": 2.0}, "kind")],
)
def test_a_cache_for_something_else_is_replaced_and_said(change: dict, said: str, tmp_path) -> None:
    built(tmp_path)
    recorder = Recorder()
    cache = built(tmp_path, recorder, **({"student_head": frozen_head(pico("llama"))} | change))
    assert said in recorder.of(Notice)[0].text
    fresh = built(tmp_path / "fresh", **({"student_head": frozen_head(pico("llama"))} | change))
    assert cache.key == fresh.key
    counts = supervised_counts(change.get("rows", ROWS))
    torch.testing.assert_close(cache.read(range(30), counts)[0], fresh.read(range(30), counts)[0], rtol=0, atol=0)


def test_keys_depend_on_what_the_numbers_depend_on_and_nothing_else() -> None:
    head, other = frozen_head(pico("llama")), frozen_head(pico("llama", seed=3))

    def key(kind: Any = "gradient", teacher: str = "t", rows: Any = ROWS, student: Head = head, temperature: float = 2.0) -> str:
        return cache_key(kind, teacher, rows, vocabulary=131, student_head=student, temperature=temperature).digest()

    assert len({key(), key("hidden"), key(teacher="u"), key(rows=ROWS[:-1]), key(student=other), key(temperature=3.0)}) == 6
    assert key() == key()
    assert key("hidden") == key("hidden", student=other, temperature=1.0)


def test_hashes_see_one_changed_label_and_one_changed_weight() -> None:
    changed = [*ROWS[:-1], {**ROWS[-1], "labels": [-100, *ROWS[-1]["labels"][1:-1], -100]}]
    assert rows_hash(changed) != rows_hash(ROWS)
    model = pico("llama")
    before = model_identity(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    assert model_identity(model) != before
    taken = model_identity(model)
    with torch.no_grad():  # between the numbers that a sample would look at
        model.model.layers[1].mlp.down_proj.weight.flatten()[1] += 1
    assert model_identity(model) != taken
    assert model_identity(pico("llama"), "elsewhere@main") != model_identity(pico("llama"))


def test_a_full_disk_is_said_with_the_bytes_it_takes(tmp_path, monkeypatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: free)
    needed = sum(supervised_counts(ROWS)) * 24 * 4 + frozen_head(pico("llama", seed=1)).weight.nbytes
    with pytest.raises(FinetuneError, match=rf"needs {size(needed)} in .*, and 1 kB is free"):
        built(tmp_path)


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_file(tmp_path) -> None:
    resource = pytest.importorskip("resource", reason="this system limits no file")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FinetuneError, match="needs 5 kB"):
            write_file(tmp_path / "shard", b"12345" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_no_supervised_token_is_an_error(tmp_path) -> None:
    with pytest.raises(TrainingError, match="No token of the data is supervised"):
        built(tmp_path, rows=[{"input_ids": [4, 5], "labels": [4, -100]}])


class TestChoice:
    def chosen(
        self,
        wanted: Any = "auto",
        *,
        trains: bool = False,
        objective: str = "forward_kl",
        free: float = 1e12,
        softcap: Any = None,
        present: Any = None,
        beside: int = 0,
    ) -> Any:
        weight = torch.empty(50_000, 64, device="meta").requires_grad_(trains)
        usage = shutil.disk_usage("/")._replace(free=int(free))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage.shutil, "disk_usage", lambda _: usage)
            head = Head(weight, softcap=softcap)
            teacher = Head(torch.empty(50_000, 256, device="meta"))
            heads = {"student_head": head, "teacher_head": teacher}
            more = {"objective": objective, "folder": "/nowhere/yet", "present": present, "beside": beside}
            return choose_cache(wanted, tokens=2**20, **heads, **more)

    def test_a_frozen_head_gets_the_gradient_cache(self) -> None:
        choice = self.chosen()
        assert choice.kind == "gradient"
        assert f"{size(2**20 * (64 * 4 + 4))}: the student's head is frozen" in choice.reason

    @pytest.mark.parametrize(
        ("settings", "because"),
        [
            ({"trains": True}, "head is trained"),
            ({"objective": "tvd"}, "only with the objective"),
            ({"softcap": 30.0}, "soft-capped"),
        ],
    )
    def test_otherwise_the_hidden_cache_and_the_reason(self, settings: dict, because: str) -> None:
        choice = self.chosen(**settings)
        assert choice.kind == "hidden"
        assert because in choice.reason

    def test_no_room_means_online(self) -> None:
        choice = self.chosen(trains=True, free=10**9 + 10)
        assert choice.kind == "none"
        assert "is needed" in choice.reason

    def test_what_is_on_the_disk_already_needs_no_room(self) -> None:
        needed = 2**20 * (64 * 4 + 4)
        full = {"free": 10**9 + 10}
        assert self.chosen(**full).kind == "none"
        assert self.chosen(**full, present={"gradient": needed}).kind == "gradient"
        assert self.chosen(**full, present={"gradient": needed // 2}).kind == "none"

    def test_what_was_asked_for_is_given_or_refused(self) -> None:
        assert self.chosen("none").kind == "none"
        assert self.chosen("hidden").kind == "hidden"
        with pytest.raises(RecipeError, match="head is trained"):
            self.chosen("gradient", trains=True)
        with pytest.raises(FinetuneError, match=r"needs 1\.\d GB"):
            self.chosen("hidden", free=2**20)
