"""An earlier adapter as `model`: trained further by the method that made it, one adapter in the end, on the same base."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import base_folder, finished_run
from letters import VOCABULARY, llama, tokenizer
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from pico import pico
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from workshop import Workshop, recorded

from finetune import LLMFineTuner
from finetune.cli import main
from finetune.errors import Interrupted, RecipeError
from finetune.events import ModelReady, Planned, Recorder, TrainingStep
from finetune.model_folder import adapter_base
from finetune.models.location import locate
from finetune.publish.card import card_of
from finetune.publish.merged import Merged
from finetune.publish.redaction import adapters_base, public_continued
from finetune.recipe import Recipe
from finetune.run.chat import chat, origin_of
from finetune.run.finetuner import RunResult

QUICK = {"training": {"epochs": 1}, "benchmark": {"rows": 4, "max_new_tokens": 4}}
IDS = torch.tensor([[6, 7, 8, 9, 10, 11, 12]])


@pytest.fixture(scope="module")
def first(shop: Workshop) -> RunResult:
    return shop.tuner(shop.layer(method={"r": 4, "alpha": 12, "target_modules": ["q_proj", "up_proj"]})).run()


@pytest.fixture(scope="module")
def second(shop: Workshop, first: RunResult) -> LLMFineTuner:
    tuner = shop.tuner(shop.layer(model=str(first.output_dir), method={"dropout": 0.2}))
    tuner.run()
    return tuner


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_it_begins_where_the_earlier_one_ended(first: RunResult, second: LLMFineTuner) -> None:
    scores = second.folder.read_json(second.folder.benchmark)
    for metric in ("perplexity", "rougeL"):
        assert scores["before"][metric] == pytest.approx(first.scores["after"][metric], rel=1e-6)
    steps = [event.loss for event in recorded(second).of(TrainingStep)]
    assert steps[0] < 1.5 * first.training["final_loss"]
    assert scores["after"]["perplexity"] < scores["before"]["perplexity"]


def test_one_adapter_is_left_on_the_same_base_with_the_earlier_ones_shape(first: RunResult, second: LLMFineTuner, shop: Workshop) -> None:
    folder = second.folder.output_dir
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(shop.model)
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 12, 0.2)
    assert set(settings["target_modules"]) == {"q_proj", "up_proj"}
    before, after = weights(first.output_dir), weights(folder)
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    base = AutoModelForCausalLM.from_pretrained(shop.model)
    by_hand = PeftModel.from_pretrained(base, str(folder))
    torch.testing.assert_close(logits(by_hand), logits(second.model), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(second.model), rtol=0, atol=1e-4)
    assert adapter_base(folder) == str(shop.model)
    assert locate(str(folder), shop.runtime, Recorder()).base.base is None  # type: ignore[union-attr]


def test_the_command_that_a_finished_run_names_trains_its_result_further(
    first: RunResult, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(first.output_dir)]) == 0
    words = shlex.split(capfd.readouterr().out.partition("further: ")[2])
    assert words[-4:] == ["--device", "cpu", "--dtype", "float32"], "as the first run was asked for"
    assert main([*words[words.index("run") :], "--set", "training.epochs=1"]) == 0
    told = json.loads((Path(words[words.index("--output-dir") + 1]) / "run" / "continued.json").read_text())
    assert told["adapter"] == str(first.output_dir)


def test_the_plan_and_the_recipe_say_what_happens(first: RunResult, second: LLMFineTuner) -> None:
    (planned,) = recorded(second).of(Planned)
    assert any("continues the adapter run-1" in note and "optimizer" in note for note in planned.plan["notes"])
    assert any("r 4, alpha 12" in note and "r 16, alpha 32" in note for note in planned.plan["notes"])
    assert planned.plan["trainable_parameters"] == sum(value.numel() for value in weights(first.output_dir).values())
    written = Recipe.load(second.folder.recipe)
    assert (written.method.r, written.method.alpha, written.method.dropout) == (4, 12, 0.2)  # type: ignore[attr-defined]
    assert written.model == str(first.output_dir)
    record = second.folder.read_json(second.folder.continued)
    assert record["adapter"] == str(first.output_dir)
    card = card_of(second.folder, repo=None)
    assert "Training continued an earlier adapter, on the same base" in card
    assert "r 4, alpha 12" in card
    assert "finetune-cli merge ." in card


def test_it_is_measured_again_merged_and_talked_to(first: RunResult, second: LLMFineTuner, shop: Workshop) -> None:
    told = second.folder.read_json(second.folder.benchmark)
    again = LLMFineTuner.of_run(second.folder.output_dir, reporter=Recorder(), runtime=shop.runtime).benchmark()
    for side in ("before", "after"):
        assert again[side] == pytest.approx(told[side], rel=1e-5)
    to = shop.folder / "second-merged"
    found = Merged.export(second.folder, to, shop.runtime, Recorder())
    assert found.base == str(shop.model)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(to)), logits(second.model), rtol=0, atol=1e-3)
    assert "an earlier adapter" in (to / "README.md").read_text()
    sides: list[str] = []
    chat(second.folder.output_dir, shop.runtime, iter(["say cat", "/exit"]).__next__, lambda _: None, both=True, side=sides.append)
    assert sides == ["base", "tuned", ""]
    earlier = locate(str(first.output_dir), shop.runtime, Recorder())
    assert origin_of(second.folder.output_dir, earlier).source == str(first.output_dir)


def test_a_third_run_and_a_resumed_one_continue_the_same_adapter(second: LLMFineTuner, shop: Workshop, first: RunResult) -> None:
    """Without the folders in between, the result still knows its base."""

    class StopsAt:
        def report(self, event: Any) -> None:
            if isinstance(event, TrainingStep) and event.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    layer = shop.layer(model=str(second.folder.output_dir))
    whole = shop.tuner(layer, QUICK).run()
    stopped = shop.tuner(layer, QUICK, {"output_dir": str(shop.folder / "stopped")})
    stopped.reporter.reporters.append(StopsAt())
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = LLMFineTuner.unfinished(shop.folder / "stopped", reporter=Recorder(), runtime=shop.runtime).run()
    for name, value in weights(whole.output_dir).items():
        torch.testing.assert_close(value, weights(resumed.output_dir)[name], rtol=0, atol=0)
    kept = shop.folder / "kept"
    shutil.copytree(whole.output_dir, kept)
    assert adapter_base(kept) == str(shop.model)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"kind": "adalora"}, "is a LoRA adapter: AdaLoRA cannot train it further"),
        ({"kind": "qlora"}, "was trained on weights that are not in 4 bits: QLoRA cannot"),
        ({"kind": "lora", "dora": True}, "is not a DoRA adapter: LoRA cannot"),
    ],
)
def test_another_kind_is_told_to_merge_first(method: dict[str, Any], said: str, shop: Workshop, first: RunResult) -> None:
    for begin in (LLMFineTuner.run, LLMFineTuner.plan):
        tuner = shop.tuner(shop.layer(model=str(first.output_dir), method=method))
        with pytest.raises(RecipeError, match=said) as refused:
            begin(tuner)
        assert f"finetune-cli merge {first.output_dir}, then --set model={first.output_dir}-merged" in str(refused.value.hint)
        assert not tuner.folder.output_dir.exists()


def test_an_adapter_on_4_bit_weights_is_continued_on_them_and_on_no_others(shop: Workshop, tmp_path: Path) -> None:
    base = tmp_path / "wide"
    llama(seed=1, hidden_size=64, intermediate_size=128).save_pretrained(base)
    tokenizer(chat=True).save_pretrained(base)
    earlier = shop.tuner(shop.layer(model=str(base), method={"kind": "qlora", "r": 4}), QUICK).run()
    with pytest.raises(RecipeError, match="trained by QLoRA, on 4-bit weights: LoRA cannot") as refused:
        shop.tuner(shop.layer(model=str(earlier.output_dir))).plan()
    assert "--set method.kind=qlora" in str(refused.value.hint)
    result = shop.tuner(shop.layer(model=str(earlier.output_dir), method={"kind": "qlora"}), QUICK).run()
    assert result.scores["before"]["perplexity"] == pytest.approx(earlier.scores["after"]["perplexity"], rel=1e-4)
    assert result.scores["after"]["perplexity"] < result.scores["before"]["perplexity"]


@pytest.mark.parametrize("architecture", ["mixtral", "gpt2"])
def test_experts_and_turned_layers_are_continued_too(architecture: str, shop: Workshop, tmp_path: Path) -> None:
    """Experts that are one parameter, and layers that keep their weights as [in, out]."""
    pico(architecture, vocab_size=VOCABULARY).save_pretrained(tmp_path / "base")
    tokenizer(chat=True).save_pretrained(tmp_path / "base")
    earlier = shop.tuner(shop.layer(model=str(tmp_path / "base"), method={"r": 4}), QUICK).run()
    tuner = shop.tuner(shop.layer(model=str(earlier.output_dir)), QUICK)
    result = tuner.run()
    before, after = weights(earlier.output_dir), weights(result.output_dir)
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    assert result.scores["before"]["perplexity"] == pytest.approx(earlier.scores["after"]["perplexity"], rel=1e-5)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(result.output_dir)), logits(tuner.model), rtol=0, atol=1e-4)
    (planned,) = recorded(tuner).of(Planned)
    (ready,) = recorded(tuner).of(ModelReady)
    assert (planned.plan["linear_share"], planned.plan["trainable_parameters"]) == (ready.linear_share, ready.trainable_parameters)
    Merged.export(tuner.folder, tmp_path / "plain", shop.runtime, Recorder())
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), logits(tuner.model), rtol=0, atol=1e-3)


def foreign(folder: Path, base: Path, config: Any) -> Path:
    """An adapter that no run of ours made."""
    model = llama(seed=3, layers=3)
    model.name_or_path = str(base)
    torch.manual_seed(2)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def test_any_lora_adapter_of_peft_is_continued_and_merged(shop: Workshop, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = LoraConfig(
        r=2, lora_alpha=2, target_modules=["v_proj"], rank_pattern={"layers.1.self_attn.v_proj": 3}, init_lora_weights=False
    )
    config.task_type = "CAUSAL_LM"
    earlier = foreign(tmp_path / "theirs", shop.model, config)
    tuner = shop.tuner(shop.layer(model=str(earlier)), QUICK)
    result = tuner.run()
    before, after = weights(earlier), weights(result.output_dir)
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(result.output_dir)), logits(tuner.model), rtol=0, atol=1e-4)
    assert main(["merge", str(earlier), "--to", str(tmp_path / "plain"), "--device", "cpu"]) == 0
    assert " chat " not in capfd.readouterr().out, "which would ask for the folder of a run"
    merged, theirs = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "plain", earlier))
    torch.testing.assert_close(logits(merged), logits(theirs), rtol=0, atol=1e-3)
    assert sorted(path.name for path in earlier.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_an_adapter_of_a_kind_that_nothing_here_trains_is_told_to_merge_first(shop: Workshop, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["v_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    earlier = foreign(tmp_path / "theirs", shop.model, config)
    with pytest.raises(RecipeError, match="is an IA3 adapter: LoRA cannot train it further") as refused:
        shop.tuner(shop.layer(model=str(earlier))).plan()
    assert f"Merge it into its base first: finetune-cli merge {earlier}" in str(refused.value.hint)


def test_a_student_that_is_an_earlier_adapter_is_continued_too(shop: Workshop, tmp_path: Path) -> None:
    small = shop.smaller_model()
    earlier = shop.tuner(shop.layer(model=str(small)), QUICK).run()
    answers = {"distillation": {"supervise": "answers"}, "method": {"kind": "lora"}}
    tuner = shop.tuner(shop.distilling(model=str(earlier.output_dir)), QUICK, answers)
    result = tuner.run()
    assert result.scores["before"]["perplexity"] == pytest.approx(earlier.scores["after"]["perplexity"], rel=1e-5)
    assert json.loads((result.output_dir / "adapter_config.json").read_text())["base_model_name_or_path"] == str(small)
    plan = shop.tuner(shop.distilling(model=str(earlier.output_dir), teacher=str(small)), QUICK, answers).plan()
    assert not any("smaller than the student" in said for said in plan.warnings), "an adapter does not count"


def test_others_find_the_base_of_a_continued_adapter(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    base = base_folder(tmp_path / "base")
    earlier = finished_run(tmp_path / "earlier", base, Recipe.from_layers({"model": f"org/base@{commit}"}))
    recipe = Recipe.from_layers({"model": str(earlier.output_dir)})
    made = finished_run(tmp_path / "made", base, recipe)
    record = {"adapter": str(earlier.output_dir), "base": f"org/base@{commit}"}
    made.write_json(made.continued, record)
    assert adapters_base(recipe) == "org/base", "before the run"
    assert adapters_base(recipe, made.output_dir) == "org/base"
    shutil.rmtree(earlier.output_dir)
    assert adapters_base(recipe, made.output_dir) == "org/base", "also without the earlier one"
    assert "base_model: org/base" in card_of(made, repo="ada/letters")
    assert public_continued(record, "org/base") == {"adapter": None, "base": f"org/base@{commit}"}
