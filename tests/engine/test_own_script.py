"""A DistillationTrainer in the processes of somebody's own script: each has the whole model, or a library has cut it or what trains it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forks import Forks
from lengths import few
from own_script import ASKED, distilled
from pico import pico
from transformers import Trainer, TrainingArguments

from finetune.data.tokens.labels import learned
from finetune.errors import RecipeError
from finetune.training.trainer import SupervisedTrainer

# Model, what else than rows a library shares, whether the rows are a stream; embeddings and head of the first are one matrix.
KINDS = [
    ("llama", "", True),
    ("llama", "fsdp", False),
    ("qwen3", "fsdp", True),
    ("llama", "deepspeed-1", False),
    ("llama", "deepspeed-2", False),
]
CALLED = {"": "MULTI_CPU", "fsdp": "FSDP"}


@pytest.mark.parametrize(("model", "by", "streamed"), few(KINDS, KINDS[0], KINDS[2], KINDS[4]))
def test_two_processes_of_a_script_train_as_one_and_count_each_row_of_an_evaluation_once(
    model: str, by: str, streamed: bool, forks: Forks, tmp_path: Path
) -> None:
    if by.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    one = distilled(model, tmp_path)
    job = {"what": "distil_and_evaluate", "model": model, "by": by, "streamed": streamed, "folder": str(tmp_path)}
    job["log"] = str(tmp_path / "log.txt")
    assert forks.run(job) == 0, (tmp_path / "log.txt").read_text()
    two = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in range(2)]
    assert {each["kind"] for each in two} == {CALLED.get(by, "DEEPSPEED")}
    for told in two:
        assert told["losses"] == pytest.approx(one["losses"], rel=1e-6)
    for count, whole in one["evaluated"].items():
        halves = [each["evaluated"][count] for each in two]
        tokens = [each.pop("tokens") for each in halves]
        assert sum(tokens) == whole.pop("tokens") == sum(len(learned(row)) for row in ASKED[: int(count)])
        assert halves == [pytest.approx(whole, rel=1e-6)] * 2


def test_deepspeed_that_cuts_the_weights_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def accelerated(trainer: Any) -> None:
        trainer.accelerator = SimpleNamespace(
            distributed_type=SimpleNamespace(value="DEEPSPEED"), state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
        )

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", accelerated)
    with pytest.raises(RecipeError, match="Stage 3 of DeepSpeed is not supported"):
        SupervisedTrainer(pico("llama"), TrainingArguments(str(tmp_path), use_cpu=True))
