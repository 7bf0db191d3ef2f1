"""`merge`: one plain model that answers as adapter and base do, or nothing at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import base_folder, finished_run
from letters import gpt2, llama, tokenizer
from method_runs import ADAPTERS, QUANTISED, VARIANTS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import registry
from finetune.cli import main
from finetune.errors import BadInput, DiskFull, FinetuneError, OutputExists
from finetune.events import Notice, Recorder
from finetune.hardware.machine import inspect
from finetune.methods.base import MethodContext
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.publish import merged
from finetune.publish.merged import Merged, Merging
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system import storage

RUNTIME = RuntimeOptions(device="cpu", dtype="float32")
IDS = torch.tensor([[6, 7, 8, 9, 10, 11, 12]])


def run_of(name: str, folder: Path, *, architecture: str = "llama", dtype: torch.dtype = torch.float32, strength: float = 0.3) -> RunFolder:
    """A run folder with an adapter of the method that changes what the base says; made without training."""
    made: Any = llama(seed=1, hidden_size=64, intermediate_size=128) if architecture == "llama" else gpt2(seed=1)
    made.to(dtype).save_pretrained(folder / "base")
    tokenizer(chat=True).save_pretrained(folder / "base")
    recipe = Recipe.from_layers({"model": str(folder / "base"), "method": VARIANTS[name], "output_dir": str(folder / "out")})
    method = registry.load("methods", recipe.method.kind)
    located = locate(str(folder / "base"), RUNTIME, Recorder())
    model: Any = load_model(located, inspect(RUNTIME), load_in=method.load_in(recipe.method))
    model = method.attach(model, recipe.method, MethodContext(20, seed=3))
    torch.manual_seed(4)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "magnitude" in key:
                parameter.mul_(1.2)
            elif parameter.requires_grad and "lora_A" not in key:
                parameter.normal_(std=strength)
    run = RunFolder(folder / "out")
    run.run.mkdir(parents=True)
    method.save(method.finish(model.eval(), recipe.method, Recorder()), run.output_dir)
    tokenizer(chat=True).save_pretrained(run.output_dir)
    recipe.save(run.recipe)
    return run


def adapter_logits(run: RunFolder) -> torch.Tensor:
    """Of the adapter on the base it was made for."""
    located = locate(str(run.output_dir), RUNTIME, Recorder())
    model = load_model(located, inspect(RUNTIME), load_in=located.base_load_in, merge=False)
    with torch.no_grad():
        return model(IDS).logits


def plain_logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert not hasattr(model, "peft_config")
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_merged_model_answers_as_the_adapter(name: str, tmp_path: Path) -> None:
    run, recorder = run_of(name, tmp_path), Recorder()
    found = Merged.export(run, tmp_path / "plain", RUNTIME, recorder)
    torch.testing.assert_close(plain_logits(tmp_path / "plain"), adapter_logits(run), rtol=0, atol=1e-3)
    assert (plain_logits(tmp_path / "base") - adapter_logits(run)).abs().max() > 0.1, "the adapter does something"
    assert found.rounded_base == (name in QUANTISED)
    assert any("4-bit" in notice.text for notice in recorder.of(Notice)) == found.rounded_base
    assert found.difference < found.allowed == 1e-3


def test_gpt2s_turned_layers_merge_too(tmp_path: Path) -> None:
    run, recorder = run_of("lora", tmp_path, architecture="gpt2"), Recorder()
    run.write_json(run.environment, {"model": {"identity": "what the base was when the run began"}})
    Merged.export(run, tmp_path / "plain", RUNTIME, recorder)
    assert any("has changed since the adapter was trained on it" in notice.text for notice in recorder.of(Notice))
    torch.testing.assert_close(plain_logits(tmp_path / "plain"), adapter_logits(run), rtol=0, atol=1e-3)


def test_it_is_written_in_the_dtype_of_the_base(tmp_path: Path) -> None:
    run = run_of("lora", tmp_path, dtype=torch.bfloat16)
    found = Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())
    assert found.dtype == "bfloat16"
    assert {weight.dtype for weight in load_file(tmp_path / "plain" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["dtype"] == "bfloat16"
    assert found.difference < 0.05


def test_a_change_too_small_for_16_bits_is_kept_in_32(tmp_path: Path) -> None:
    """Smaller than half a step of bfloat16 nearly everywhere: rounded, it would be gone."""
    run, recorder = run_of("lora", tmp_path, dtype=torch.bfloat16, strength=0.001), Recorder()
    found = Merged.export(run, tmp_path / "plain", RUNTIME, recorder)
    assert found.dtype == "float32"
    assert any("bfloat16" in notice.text for notice in recorder.of(Notice))
    torch.testing.assert_close(plain_logits(tmp_path / "plain"), adapter_logits(run), rtol=0, atol=1e-3)


@pytest.mark.parametrize("wrong", ["nothing merged", "merged twice", "not a number"])
def test_a_model_that_would_answer_differently_is_refused_and_leaves_nothing(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("lora", tmp_path)

    def merge(adapted: Any) -> Any:
        layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
        if wrong == "nothing merged":
            return adapted.unload()
        if wrong == "merged twice":
            layer.base_layer.weight.data += layer.get_delta_weight("default")
        plain = adapted.merge_and_unload()
        if wrong == "not a number":
            plain.model.layers[0].self_attn.q_proj.weight.data[0, 0] = float("nan")
        return plain

    monkeypatch.setattr(merged, "_merge", merge)
    with pytest.raises(FinetuneError, match="does not match the adapter") as caught:
        Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())
    assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_broken_weights_of_an_adapter_are_refused(tmp_path: Path) -> None:
    run = run_of("lora", tmp_path)
    file = run.output_dir / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).fill_(float("inf"))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(FinetuneError, match="cannot be merged"):
        Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())
    assert not (tmp_path / "plain").exists()


def test_the_folder_is_a_run_of_its_own(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "out", base, Recipe.from_layers({"model": str(base)}))
    found = Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())
    made = RunFolder.of(tmp_path / "plain")
    assert Recipe.load(made.recipe) == Recipe.load(run.recipe)
    assert made.read_json(made.run / "merge.json")["adapter"] == str(run.output_dir) == found.adapter
    card = made.card.read_text()
    assert "library_name: transformers" in card
    assert "pip install transformers`" in card
    assert not any("adapter" in path.name for path in made.output_dir.iterdir())
    assert AutoTokenizer.from_pretrained(made.output_dir).chat_template == AutoTokenizer.from_pretrained(run.output_dir).chat_template


def test_a_whole_model_needs_no_merging(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    run = finished_run(tmp_path / "out", base, Recipe.from_layers({"model": str(base), "method": "full"}), adapter=False)
    with pytest.raises(BadInput, match="nothing to merge"):
        Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = run_of("lora", tmp_path)
    (tmp_path / "plain").mkdir()
    with pytest.raises(OutputExists, match="nothing is overwritten") as caught:
        Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())
    assert "plain-2" in str(caught.value.hint)
    (tmp_path / ".other.part").mkdir()
    (tmp_path / ".other.part" / "somebody's").touch()
    with pytest.raises(OutputExists, match=r"\.other\.part exists already") as caught:
        Merged.export(run, tmp_path / "other", RUNTIME, Recorder())
    assert "other-2" in str(caught.value.hint)
    assert (tmp_path / ".other.part" / "somebody's").exists()
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(BadInput, match="cannot be made"):
        Merged.export(run, tmp_path / "rows.jsonl" / "plain", RUNTIME, Recorder())


def test_too_little_room_is_said_with_sizes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("lora", tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: free)
    with pytest.raises(DiskFull, match=r"The merged model needs \d+ kB in .*, and 1 kB is free"):
        Merged.export(run, tmp_path / "plain", RUNTIME, Recorder())
    assert not list(tmp_path.glob("*plain*"))


def test_the_command_says_where_and_how_near(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of("lora", tmp_path)
    assert main(["merge", str(run.output_dir), "--json", "--device", "cpu"]) == 0
    told = Merging(**json.loads(capfd.readouterr().out))
    assert told.folder == str(tmp_path / "out-merged")
    assert told.difference < told.allowed
    assert (tmp_path / "out-merged" / "model.safetensors").stat().st_size == told.bytes
    assert main(["merge", str(run.output_dir), "--device", "cpu"]) == 2
    assert "nothing is overwritten" in capfd.readouterr().err
    assert main(["merge", str(run.output_dir), "--to", str(tmp_path / "other"), "--device", "cpu"]) == 0
    assert "logits differ by" in capfd.readouterr().out
    assert main(["merge", str(tmp_path / "other"), "--to", str(tmp_path / "again"), "--device", "cpu"]) == 2
    assert "complete model" in capfd.readouterr().err
