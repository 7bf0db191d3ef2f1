"""What a cache keeps of a teacher's inside: its size, its numbers, its room on the disk, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_distillation_cache as caches
import torch
from pico import Rows, arguments, pico, pico_rows

from finetune.data.tokens.labels import NO_LOSS
from finetune.distillation import trainer as trainer_module
from finetune.distillation.caches.builder import build_cache, supervised_counts
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.distillation.terms.features import Features
from finetune.distillation.terms.internals import Compared, facts_of, narrow
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import TrainingError
from finetune.events import Progress, Recorder
from finetune.formatting import size
from finetune.recipe.distillation_settings import FeaturesSpec

ROWS = pico_rows(12)
FEATURES: dict[str, Any] = {"layers": [1, 3], "relations": ["k", "v"]}
COMPARED = Compared(FeaturesSpec(**FEATURES), [0, 2])


def built(folder: Path, reporter: Recorder | None = None, **more: Any) -> TeacherCache:
    return build_cache("hidden", pico("llama", seed=7), ROWS, folder, reporter=reporter, shard_bytes=caches.SMALL, **more)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "head.safetensors"}


def test_the_disk_need_said_beforehand_is_the_disk_need(tmp_path: Path) -> None:
    teacher, cache = pico("llama", seed=7), built(tmp_path, compared=COMPARED)
    kept = COMPARED.kept(*facts_of(teacher))
    assert (kept.tokens, kept.places) == ({"layer.0": 24, "layer.2": 24}, {"last_layer.k": 12, "last_layer.v": 12})
    said = kept.bytes(cache.tokens, sum(len(row["input_ids"]) for row in ROWS), torch.float32)
    states = cache.tokens * 24 * 4
    assert len(cache.shards) > 5
    assert said + states <= cache.nbytes <= said + states + sum(800 + 16 * shard.rows for shard in cache.shards)


def test_a_row_finds_what_its_teacher_has_shown(tmp_path: Path) -> None:
    teacher, cache, row = pico("llama", seed=7), built(tmp_path, compared=COMPARED), 5
    with torch.no_grad():
        ids = torch.tensor([ROWS[row]["input_ids"]])
        seen = teacher.model(ids, output_hidden_states=True).hidden_states
        last = teacher.model.layers[-1]
        values = last.self_attn.v_proj(last.input_layernorm(seen[2]))[0]
    supervised = torch.tensor(ROWS[row]["labels"][1:]) != NO_LOSS
    (state,) = cache.read([row], [int(supervised.sum())], ["layer.0"])
    (kept,) = cache.read([row], [len(ROWS[row]["input_ids"])], ["last_layer.v"])
    assert {state.dtype, kept.dtype} == {torch.float16}
    torch.testing.assert_close(state.float(), seen[1][0, :-1][supervised], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(kept.float(), values, rtol=1e-3, atol=1e-4)
    with pytest.raises(TrainingError, match=r"Row 5 has 99 tokens and the teacher cache in .* has \d+"):
        cache.read([row], [99], ["last_layer.v"])


def test_sixteen_bits_are_those_that_reach_far_enough() -> None:
    small = torch.tensor([0.1, 6e4])
    assert narrow(small).dtype == torch.float16
    far = narrow(torch.tensor([0.1, 7e4]))
    assert far.dtype == torch.bfloat16
    torch.testing.assert_close(far.float(), torch.tensor([0.1, 7e4]), rtol=5e-3, atol=0)
    for dtype in (torch.bfloat16, torch.float64):
        assert narrow(small.to(dtype)).dtype == dtype


def test_an_interrupted_pass_ends_with_the_same_bytes(tmp_path: Path) -> None:
    class Impatient(Recorder):
        def report(self, event: Any) -> None:
            super().report(event)
            if len(self.of(Progress)) == 4:
                raise KeyboardInterrupt

    built(tmp_path / "whole", compared=COMPARED)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "cut", Impatient(), compared=COMPARED)
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("shard-*")}
    assert len(finished) >= 2
    built(tmp_path / "cut", compared=COMPARED)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in finished} == finished


def test_a_cache_without_it_is_what_it_was(tmp_path: Path) -> None:
    plain = built(tmp_path)
    told = json.loads((tmp_path / "index.json").read_text())
    assert told["key"].keys() == {"kind", "teacher", "rows", "vocabulary", "student_head", "temperature", "version", "margins"}
    assert TeacherCache.open(tmp_path, plain.key).rows == len(ROWS)
    assert built(tmp_path / "more", compared=COMPARED).key.digest() != plain.key.digest()


def test_room_is_wanted_for_it_too() -> None:
    usual, beside = 2**20 * (64 * 4 + 4), 10**9
    more = caches.TestChoice().chosen(beside=beside)
    assert more.kind == "gradient"
    assert size(usual + beside) in more.reason
    without = caches.TestChoice().chosen(beside=beside, free=10**9 + usual + beside // 2)
    assert without.kind == "none"
    assert "is needed" in without.reason


def test_where_a_batch_is_padded_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, compared, mask_of, compare = [], [], trainer_module.right_padding_mask, Features.compared

    def found(*given: Any) -> torch.Tensor:
        masks.append(mask_of(*given))
        return masks[-1]

    def with_count(features: Features, *given: Any) -> Any:
        compared.append(given)
        return compare(features, *given)

    monkeypatch.setattr(trainer_module, "right_padding_mask", found)
    monkeypatch.setattr(Features, "compared", with_count)
    more: dict[str, Any] = {"train_dataset": Rows(ROWS), "features": FEATURES, "cache": built(tmp_path / "cache", compared=COMPARED)}
    DistillationTrainer(pico("llama"), arguments(tmp_path), **more).train()
    assert len(masks) == len(compared) > 1


@pytest.mark.parametrize("kind", ["right", "left"])
def test_places_of_a_row_are_found_on_either_side_of_its_padding(kind: str, tmp_path: Path) -> None:
    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        fills = {"input_ids": 0, "labels": NO_LOSS, "attention_mask": 0}
        batch: dict[str, list[list[int]]] = {name: [] for name in fills}
        for row in rows:
            for name, fill in fills.items():
                values = list(row[name]) if name in row else [1] * len(row["input_ids"])
                padding = [fill] * (longest - len(values))
                batch[name].append(padding + values if kind == "left" else values + padding)
        more = {"row": torch.tensor([row["row"] for row in rows])} if "row" in rows[0] else {}
        return {**{name: torch.tensor(values) for name, values in batch.items()}, **more}

    teacher, found = pico("llama", seed=7, dtype=torch.float64), []
    cache = build_cache("hidden", teacher, ROWS, tmp_path / "cache", compared=COMPARED)
    for said in ({"teacher_model": teacher}, {"cache": cache}):
        student = pico("llama", dtype=torch.float64)
        more: dict[str, Any] = {"train_dataset": Rows(ROWS), "features": FEATURES, "data_collator": collate}
        trainer = DistillationTrainer(student, arguments(tmp_path), **said, **more)
        trainer.train()
        found.append(trainer.last_parts)
    assert sum(supervised_counts(ROWS)) == cache.tokens
    assert found[1] == pytest.approx(found[0], rel=1e-6)
