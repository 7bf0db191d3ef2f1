"""Which models a run may begin with: what is refused before the work, and what is told apart though it lies in the same folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import VOCABULARY, llama, tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from workshop import Workshop, model_folder

from finetune import LLMFineTuner
from finetune.errors import RecipeError
from finetune.events import Notice, Recorder
from finetune.hardware.machine import inspect
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.planning.estimate import _memory_problem
from finetune.planning.fixes import memory_fixes
from finetune.publish.merged import Merged
from finetune.recipe.settings import TrainingSpec
from finetune.run.answer_time import benchmark_seconds
from finetune.run.finetuner import RunResult
from finetune.run_folder import RunFolder


@pytest.fixture(scope="module")
def tuned(shop: Workshop) -> RunResult:
    return shop.tuner(shop.layer()).run()


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("kind", ["lora", "qlora", "adalora"])
def test_a_made_student_is_not_trained_by_an_adapter_that_would_not_hold_its_layers(kind: str, shop: Workshop) -> None:
    for begin in (LLMFineTuner.run, LLMFineTuner.plan):
        tuner = shop.tuner(shop.distilling(method={"kind": kind}))
        with pytest.raises(RecipeError, match="made from its teacher") as refused:
            begin(tuner)
        assert "method.kind=full" in str(refused.value.hint)
        assert not tuner.folder.output_dir.exists()


def test_the_ways_out_of_a_made_student_are_those_that_it_can_take(shop: Workshop) -> None:
    tuner = shop.tuner(shop.distilling())
    plan = tuner.plan()
    assert set(plan.methods) == {"full"}
    assert [way.text for way in memory_fixes(tuner.context, replace(plan, free_memory=0), most=9)] == [
        "activation checkpointing (a third slower)"
    ]
    chosen = shop.tuner(shop.distilling(model=str(shop.smaller_model())))
    assert "LoRA instead of full training" in [
        way.text for way in memory_fixes(chosen.context, replace(chosen.plan(), free_memory=10**15), most=9)
    ]


@pytest.mark.parametrize(
    ("spec", "on_cpu", "ways"),
    [
        ({}, True, "--set training.activation_checkpointing=true, a lower dataset.max_length or a smaller model."),
        ({"activation_checkpointing": True}, True, "a lower dataset.max_length or a smaller model."),
        (
            {"batch_size": 4, "activation_checkpointing": True},
            False,
            "--set training.batch_size=2 --set training.gradient_accumulation=2, a lower dataset.max_length or a smaller model.",
        ),
        ({"batch_size": 1, "activation_checkpointing": True}, False, "a lower dataset.max_length or a smaller model."),
    ],
)
def test_what_does_not_fit_is_told_with_what_has_not_been_done_yet(spec: dict[str, Any], on_cpu: bool, ways: str) -> None:
    said = _memory_problem(2_000_000_000, 1_300_000_000, TrainingSpec(**spec), on_cpu=on_cpu)
    assert said == f"Training needs about 2.0 GB of memory and 1.3 GB is free: {ways}"


def test_an_adapter_beside_a_whole_model_is_told_and_not_put_on_it(shop: Workshop, tuned: RunResult, tmp_path: Path) -> None:
    both, heard, machine = tmp_path / "both", Recorder(), inspect(shop.runtime)
    shutil.copytree(shop.model, both)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(Path(tuned.output_dir) / name, both / name)
    found = load_model(locate(str(both), shop.runtime, heard), machine)
    alone = load_model(locate(str(shop.model), shop.runtime, heard), machine)
    assert {name: float(weight.sum()) for name, weight in found.named_parameters()} == {
        name: float(weight.sum()) for name, weight in alone.named_parameters()
    }
    (notice,) = heard.of(Notice)
    assert "has an adapter beside the whole model: the model is used as it is" in notice.text


def test_an_earlier_adapter_can_be_trained_on_merged_or_whole_and_others_load_the_same_model(shop: Workshop, tuned: RunResult) -> None:
    merged = shop.folder / "merged"
    Merged.export(RunFolder.of(tuned.output_dir), merged, shop.runtime, Recorder())
    for layer in (shop.layer(model=str(merged)), shop.layer(model=str(tuned.output_dir), method={"kind": "full"})):
        tuner = shop.tuner(layer)
        result = tuner.run()
        assert result.scores["before"]["perplexity"] == pytest.approx(tuned.scores["after"]["perplexity"], rel=1e-3)
        ids = tuner.data.held_out[0]["input_ids"]
        theirs = AutoModelForCausalLM.from_pretrained(result.output_dir)
        torch.testing.assert_close(logits(theirs, ids), logits(tuner.model, ids), rtol=1e-4, atol=1e-4)


def short_sighted(folder: Path, context: int) -> str:
    """A model of absolute positions that has none beyond `context` tokens."""
    shape = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": context}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, **shape)).save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_rows_longer_than_the_context_are_refused_before_the_work_with_the_length_that_fits(
    role: str, shop: Workshop, tmp_path: Path
) -> None:
    small = short_sighted(tmp_path / "small", 16)
    changes = {"model": small} if role == "model" else {"model": str(shop.smaller_model()), "teacher": small}
    make = shop.layer if role == "model" else shop.distilling
    for begin in (LLMFineTuner.run, LLMFineTuner.plan):
        tuner = shop.tuner(make(**changes), {"benchmark": {"max_new_tokens": 4}})
        longest = max(*tuner.data.train["length"], *tuner.data.held_out["length"])
        with pytest.raises(RecipeError, match=f"The longest row has {longest} tokens, but the context of small is 16") as refused:
            begin(tuner)
        assert "--set dataset.max_length=16" in str(refused.value.hint)
        assert not tuner.folder.output_dir.exists()
    cut = {"benchmark": {"max_new_tokens": 4}, "dataset": {"max_length": 16}}
    assert shop.tuner(make(**changes), cut).run().scores["after"]["perplexity"] > 0


def test_a_context_as_long_as_the_longest_row_is_enough_also_for_answers_and_for_measuring_first(shop: Workshop, tmp_path: Path) -> None:
    """Though dataset.max_length is larger, and a prompt and a few tokens would not fit."""
    rows = tmp_path / "rows.jsonl"
    words = ("say cat", "say dog", "say hen", "say fox", "say owl", "say cow", "say elk", "say ape")
    rows.write_text("".join(json.dumps({"prompt": f"{word} {letter}", "completion": letter}) + "\n" for word in words for letter in "abc"))
    data = {"dataset": {"source": str(rows)}}
    tuner = shop.tuner(shop.layer(), data)
    (longest,) = {*tuner.data.train["length"], *tuner.data.held_out["length"]}
    assert longest < tuner.recipe.dataset.max_length
    layer = shop.layer(model=short_sighted(tmp_path / "small", longest))
    tuner = shop.tuner(layer, data, {"benchmark": {"max_new_tokens": 1}})
    assert benchmark_seconds(tuner.context, tuner.load_model()) > 0
    again = shop.tuner(layer, data, {"benchmark": {"max_new_tokens": longest - 1}})
    assert again.run().scores["after"]["rougeL"] >= 0
    with pytest.raises(RecipeError, match="max_new_tokens") as refused:
        shop.tuner(layer, data, {"benchmark": {"max_new_tokens": longest}}).plan()
    assert "auto" in str(refused.value.hint)


def test_a_model_is_measured_again_once_its_folder_holds_other_weights(shop: Workshop, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", layers=3)
    layers = [shop.layer(model=str(model)) for _ in range(2)]
    tuners = [shop.tuner(layers[0])]
    tuners[0].train()
    llama(seed=77, layers=3).save_pretrained(model)
    tuners.append(shop.tuner(layers[1]))
    tuners[1].train()
    fresh = LLMFineTuner(tuners[1].recipe, runtime=replace(shop.runtime, cache_dir=tmp_path / "cache"))
    fresh.load_model()
    first, second, true = (tuner.before.values["perplexity"] for tuner in (*tuners, fresh) if tuner.before)
    assert second == true != first


def test_a_teacher_that_was_trained_on_is_measured_and_asked_again(shop: Workshop, tmp_path: Path) -> None:
    teacher = model_folder(tmp_path / "teacher", layers=3)
    shop.tuner(shop.distilling(teacher=str(teacher))).run()
    asked = set((shop.runtime.cache_dir / "teachers").iterdir())
    weights = load_file(teacher / "model.safetensors")
    weights["model.embed_tokens.weight"][VOCABULARY - 1] += 1  # one row of one tensor
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    shop.tuner(shop.distilling(teacher=str(teacher))).run()
    assert set((shop.runtime.cache_dir / "teachers").iterdir()) > asked
