"""A DistillationTrainer in the processes of somebody's own script: each has the whole model, or accelerate has cut it (FSDP)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forks import Forks
from own_script import ASKED, distilled

from finetune.data.tokens.labels import learned

KINDS = [("llama", False), ("llama", True), ("qwen3", True)]  # embeddings and head are one matrix in the first


@pytest.mark.parametrize(("model", "fsdp"), KINDS)
def test_two_processes_of_a_script_train_as_one_and_count_each_row_of_an_evaluation_once(
    model: str, fsdp: bool, forks: Forks, tmp_path: Path
) -> None:
    one = distilled(model, tmp_path)
    job = {"what": "distil_and_evaluate", "model": model, "fsdp": fsdp, "folder": str(tmp_path), "log": str(tmp_path / "log.txt")}
    assert forks.run(job) == 0, (tmp_path / "log.txt").read_text()
    two = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in range(2)]
    assert {each["kind"] for each in two} == {"FSDP" if fsdp else "MULTI_CPU"}
    for told in two:
        assert told["losses"] == pytest.approx(one["losses"], rel=1e-6)
    for count, whole in one["evaluated"].items():
        halves = [each["evaluated"][count] for each in two]
        tokens = [each.pop("tokens") for each in halves]
        assert sum(tokens) == whole.pop("tokens") == sum(len(learned(row)) for row in ASKED[: int(count)])
        assert halves == [pytest.approx(whole, rel=1e-6)] * 2
