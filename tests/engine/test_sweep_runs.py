"""By the program, really run: a sweep with a folder for each value and a table at its end, and a run that fails where a score is worse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from workshop import Workshop

from finetune.cli import main


def test_a_sweep_makes_a_run_for_each_value_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shop = Workshop(tmp_path)
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(shop.runtime.cache_dir))
    recipe = tmp_path / "recipe.yaml"
    layer = shop.distilling(benchmark={"rows": 12, "max_new_tokens": 8}, training={"epochs": 1, "batch_size": 6})  # at a rate that is found
    layer["dataset"]["held_out"] = 0.5
    recipe.write_text(yaml.safe_dump(layer))
    command = ["run", str(recipe), "--set", "distillation.temperature=1,2", "--device", "cpu", "--dtype", "float32", "--json"]
    assert main(command) == 0
    said = capfd.readouterr()
    rows = json.loads(said.out.splitlines()[-1])["runs"]
    assert [row["differs"] for row in rows] == [{"distillation.temperature": 1.0}, {"distillation.temperature": 2.0}]
    assert [Path(row["output_dir"]).name for row in rows] == ["temperature-1", "temperature-2"]
    assert rows[0]["against_first"] == {}
    assert {"rougeL", "perplexity", "kl"} <= set(rows[1]["against_first"])
    assert all(row["train_seconds"] > 0 and row["parameters"] > 0 for row in rows)
    assert "Run 2 of 2: distillation.temperature=2" in said.err
    assert "Measuring the teacher: reused from an earlier run on the same rows." in said.err
    assert "B against A" in said.err
    assert main(command) == 0, "what is finished is kept"
    assert "is finished; it is kept." in capfd.readouterr().err
    assert main([*command, "--set", "dataset.max_length=32"]) == 1
    assert "has a run of another recipe" in capfd.readouterr().err.replace("\n", " ")


def test_a_run_that_makes_its_model_worse_ends_with_exit_code_1_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shop = Workshop(tmp_path)
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(shop.runtime.cache_dir))
    recipe = tmp_path / "recipe.yaml"
    layer = shop.layer(benchmark={"rows": 12, "max_new_tokens": 8}, method="full")
    layer["dataset"]["held_out"] = 0.5
    layer["training"] |= {"learning_rate": 0.9, "scheduler": "constant"}
    recipe.write_text(yaml.safe_dump(layer))
    flags = ["--device", "cpu", "--dtype", "float32", "--json", "--fail-if-worse", "perplexity"]
    assert main(["run", str(recipe), *flags]) == 1
    said = capfd.readouterr()
    assert json.loads(said.out.splitlines()[-1])["scores"]["change"]["perplexity"]["verdict"] == "worse"
    assert "Perplexity is worse than before: " in said.err
    assert (Path(layer["output_dir"]) / "model.safetensors").is_file()
    assert main(["benchmark", layer["output_dir"], *flags]) == 1
    assert main(["run", str(recipe), "--fail-if-worse", "kl"]) == 2
