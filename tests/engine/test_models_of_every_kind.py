"""Models that are not one stack of plain linear layers: tied heads, experts in one parameter, towers, encoders, layers of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from pico import pico
from safetensors.torch import save_file
from test_architectures import MACHINE, Trained, logits, same
from transformers import AutoModelForCausalLM
from zoo import build, save

from finetune import registry
from finetune.errors import ModelError
from finetune.events import Recorder
from finetune.methods.base import MethodContext
from finetune.methods.inventory import Inventory, read_past
from finetune.methods.lora_kernel import _FusedForward, speed_up
from finetune.methods.targets import find_targets
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.planning.shape import what_learns
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions


def planned(folder: Path, **method: Any) -> Any:
    """What the plan says of a model in a folder, with nothing loaded."""
    spec = Recipe.from_layers({"method": method}).method
    return what_learns(locate(str(folder), RuntimeOptions(), Recorder()), registry.load("methods", spec.kind), spec)


def attached(model: Any, **method: Any) -> Any:
    spec = Recipe.from_layers({"method": method}).method
    return registry.load("methods", spec.kind).attach(model, spec, MethodContext(20))


class TestTiedWeights:
    @pytest.mark.parametrize(
        ("name", "targets"), [("llama", ["q_proj", "lm_head"]), ("llama", ["embed_tokens"]), ("gpt2", ["c_attn", "wte"])]
    )
    @pytest.mark.parametrize("kind", ["lora", "adalora"])
    def test_an_adapter_on_a_tied_head_or_embedding_is_refused_by_plan_and_run(self, name, targets, kind, tmp_path) -> None:
        folder = save(name, tmp_path)
        for attempt in (
            lambda: planned(folder, kind=kind, target_modules=targets),
            lambda: attached(pico(name), kind=kind, target_modules=targets),
        ):
            with pytest.raises(ModelError, match="embeddings and output head are the same weights") as error:
                attempt()
            assert "target_modules=auto" in str(error.value.hint)

    @pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens", "v_proj"]])
    def test_on_weights_of_their_own_it_is_the_same_everywhere(self, targets: list[str], tmp_path: Path) -> None:
        base = save("qwen3", tmp_path / "base")
        run = Trained(base, tmp_path, kind="lora", r=4, target_modules=targets)
        assert run.promised.trainable == sum(value.numel() for value in run.trainable.values())
        run.method.save(run.model, tmp_path / "adapter")
        for kind in (AutoModelForCausalLM, AutoPeftModelForCausalLM):
            same(logits(kind.from_pretrained(tmp_path / "adapter", dtype=torch.float32)), run.after)
        run.model.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
        same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)), run.after)

    @pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
    def test_an_adapter_that_others_put_on_a_tied_head_keeps_its_answers_when_it_is_merged(self, target: str, tmp_path: Path) -> None:
        base = save("llama", tmp_path / "base")
        made = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=[target], init_lora_weights=False))
        made.save_pretrained(tmp_path / "adapter")
        expected = logits(made)
        located = locate(str(tmp_path / "adapter"), RuntimeOptions(), Recorder())
        merged = load_model(located, MACHINE)
        same(logits(merged), expected)
        merged.save_pretrained(tmp_path / "merged")
        same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected)

    def test_a_name_that_no_layer_has_is_refused_beside_names_that_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no layer called querry") as error:
            planned(save("llama", tmp_path), kind="lora", target_modules=["q_proj", "querry"])
        assert "q_proj" in str(error.value.hint)


class TestExperts:
    def test_each_expert_has_a_matrix_pair_of_its_own(self) -> None:
        model = build("qwen3_moe")
        made = attached(model, kind="lora", r=3)
        assert made.peft_config["default"].target_parameters == {"experts.down_proj", "experts.gate_up_proj"} | {
            f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")
        } or set(made.peft_config["default"].target_parameters)
        learned = sum(value.numel() for value in made.parameters() if value.requires_grad)
        attention = 3 * (3 * (32 + 32) + 3 * (32 + 16) * 2 + 3 * (32 + 32))
        experts = 2 * 4 * 3 * ((32 + 32) + (16 + 32))
        dense = 3 * 3 * (32 + 48)
        assert learned == attention + experts + dense

    @pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
    def test_the_default_adapter_has_no_dropout_there_and_says_so(self, name: str, tmp_path: Path) -> None:
        found = planned(save(name, tmp_path), kind="lora")
        assert any("no dropout" in note for note in found.notes)
        assert attached(build(name), kind="lora").peft_config["default"].lora_dropout == 0
        assert not any("dropout" in note for note in planned(tmp_path, kind="lora", dropout=0).notes)

    @pytest.mark.parametrize("method", [{"kind": "lora", "dora": True}, {"kind": "adalora"}])
    def test_a_method_that_cannot_says_which_share_does_not_learn(self, method: dict[str, Any], tmp_path: Path) -> None:
        found = planned(save("mixtral", tmp_path), **method)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        experts = sum(value.numel() for key, value in model.named_parameters() if ".experts." in key)
        routers = sum(value.numel() for key, value in model.named_parameters() if ".gate." in key)
        attention = sum(value.numel() for key, value in model.named_parameters() if "self_attn" in key)
        assert found.share == pytest.approx(attention / (attention + experts + routers))
        assert any(f"The experts do not learn: {100 * experts / (attention + experts + routers):.1f} %" in note for note in found.notes)
        assert any("Routers are not adapted" in note for note in found.notes)

    def test_names_that_peft_takes_for_older_experts_reach_the_layers_that_have_them(self) -> None:
        """Dense layers and shared experts of such models have the names that experts had."""
        model = build("deepseek_v3")
        made = attached(model, kind="lora", r=2)
        adapted = {
            key.partition(".lora_A")[0].removeprefix("base_model.model.model.") for key, _ in made.named_parameters() if ".lora_A." in key
        }
        assert {"layers.0.mlp.gate_proj", "layers.1.mlp.shared_experts.gate_proj", "layers.2.mlp.experts.base_layer"} <= adapted
        assert not any(key.endswith("mlp.gate") for key in adapted)

    def test_an_adalora_becomes_lora_with_the_same_answers(self, tmp_path: Path) -> None:
        base = save("deepseek_v3", tmp_path / "base")
        model = attached(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), kind="adalora", r=2)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_E" in key:
                    value.normal_()
                    value[:1] *= "gate_proj" not in key  # ranks of their own
        before = logits(model)
        method = registry.load("methods", "adalora")
        plain = method.finish(model, None, Recorder())
        same(logits(plain), before)
        method.save(plain, tmp_path / "adapter")
        same(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)), before)

    def test_beside_a_model_in_4_bits_plan_and_run_leave_out_the_same(self, tmp_path: Path) -> None:
        base = save("qwen3_moe", tmp_path / "base", hidden_size=64, intermediate_size=64, head_dim=16)
        spec = Recipe.from_layers({"method": {"kind": "qlora", "r": 2}}).method
        promised, method = planned(base, kind="qlora", r=2), registry.load("methods", "qlora")
        located = locate(str(base), RuntimeOptions(), Recorder())
        model: Any = load_model(located, MACHINE, load_in="4bit")
        inventory = Inventory.of(model)
        made = method.attach(model, spec, MethodContext(2))
        coverage = inventory.coverage(made, spec)
        assert (coverage.share, coverage.notes) == (promised.share, promised.notes)
        dense = 3 * 64 * 64
        assert coverage.share == pytest.approx(1 - (dense + 2 * 4 * 64) / inventory.weights)
        assert any("down_proj, gate_proj, up_proj are not adapted" in note for note in coverage.notes)
        with torch.no_grad():
            for key, value in made.named_parameters():
                if "lora_B" in key:
                    value.normal_(std=0.1)
        method.save(made, tmp_path / "adapter")
        again = load_model(locate(str(tmp_path / "adapter"), RuntimeOptions(), Recorder()), MACHINE, load_in="4bit", merge=False)
        same(logits(again), logits(made))

    def test_experts_can_be_named_alone(self, tmp_path: Path) -> None:
        base = save("mixtral", tmp_path / "base")
        run = Trained(base, tmp_path, kind="lora", r=2, target_modules=["experts.down_proj"])
        assert {key.partition(".lora_")[0].rpartition(".")[2] for key in run.trainable} == {"experts"}
        assert 0 < run.promised.share < 1
        assert any("method.target_modules" in note for note in run.promised.notes)


class TestTowers:
    @pytest.mark.parametrize("kind", ["lora", "adalora", "full"])
    def test_only_the_text_part_trains(self, kind: str, tmp_path: Path) -> None:
        found = planned(save("gemma3", tmp_path), kind=kind)
        made = attached(build("gemma3"), kind=kind)
        names = [key for key, value in made.named_parameters() if value.requires_grad]
        assert names
        assert not any("vision_tower" in key or "projector" in key for key in names)
        assert found.trainable == sum(value.numel() for value in made.parameters() if value.requires_grad)
        assert any("model.multi_modal_projector, model.vision_tower" in note and "stay as they are" in note for note in found.notes)

    def test_names_that_both_parts_have_mean_the_text_part(self) -> None:
        targets = find_targets(build("gemma3"), ["q_proj", "v_proj"], parameters=True)
        assert targets.modules == ["q_proj", "v_proj"]
        made = attached(build("gemma3"), kind="lora", target_modules=["q_proj", "v_proj"])
        adapted = {key for key, _ in made.named_parameters() if "lora_A" in key}
        assert len(adapted) == 6
        assert all(".language_model." in key for key in adapted)

    def test_a_name_of_the_tower_alone_is_refused(self) -> None:
        with pytest.raises(ModelError, match="no layer called fc1 in its text part"):
            find_targets(build("gemma3"), ["fc1"], parameters=True)


class TestNotALanguageModel:
    @pytest.mark.parametrize(
        ("family", "architecture", "said"),
        [
            ("Bert", "BertLMHeadModel", "is a bert: it sees later tokens"),
            ("Roberta", "RobertaForCausalLM", "is a roberta: it sees later tokens"),
            ("PaliGemma", "PaliGemmaForConditionalGeneration", "is a paligemma: it sees later tokens"),
            ("T5", "T5ForConditionalGeneration", "encoder and a decoder|not a causal language model"),
            (
                "Voxtral",
                "VoxtralForConditionalGeneration",
                "not a language model that reads and writes text",
            ),
            (
                "Qwen2Audio",
                "Qwen2AudioForConditionalGeneration",
                "not a language model that reads and writes text",
            ),
            ("Blip", "BlipForConditionalGeneration", "."),
        ],
    )
    def test_one_sentence_says_what_it_is(self, family: str, architecture: str, said: str, tmp_path: Path) -> None:
        made = getattr(transformers, f"{family}Config")()
        made.architectures = [architecture]
        made.save_pretrained(tmp_path)
        save_file({"wide": torch.zeros(1, 40_000)}, tmp_path / "model.safetensors")  # for the plan a model is its configuration
        with pytest.raises(ModelError, match=said) as error:
            planned(tmp_path, kind="lora")
        assert len(error.value.message) < 200
        assert error.value.exit_code == 2


class Doubling(torch.nn.Linear):
    """A linear layer with arithmetic of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class TestTheKernelKnowsWhatItReplaces:
    def test_bitnet_computes_what_it_did(self, tmp_path: Path) -> None:
        online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
        located = locate(str(save("bitnet", tmp_path, quantization_config=online)), RuntimeOptions(), Recorder())
        model: Any = load_model(located, MACHINE)
        with torch.compiler.set_stance("force_eager"):  # its rounding is compiled, which takes longer than all of this
            before = logits(model)
            made = attached(model, kind="lora", r=2)
            same(logits(made), before)
        kinds = {type(module.get_base_layer()).__name__ for module in made.modules() if hasattr(module, "lora_A")}
        assert kinds == {"AutoBitLinear"}
        assert planned(tmp_path, kind="lora").share == 1

    @pytest.mark.parametrize("change", ["class", "hook", "forward"])
    def test_layers_that_do_more_than_their_class_says_keep_pefts_forward(self, change: str) -> None:
        model = build("llama")
        layer = model.model.layers[1].self_attn.q_proj
        if change == "class":
            layer.__class__ = Doubling
        elif change == "hook":
            layer.register_forward_hook(lambda module, given, out: 2 * out)
        else:
            own = layer.forward
            layer.forward = lambda x: 2 * own(x)
        before = logits(model)
        made = attached(model, kind="lora", r=2)
        same(logits(made), before)
        assert not isinstance(made.base_model.model.model.layers[1].self_attn.q_proj.forward, _FusedForward)
        assert isinstance(made.base_model.model.model.layers[0].self_attn.q_proj.forward, _FusedForward)

    def test_a_kind_whose_numbers_are_not_pefts_is_left_to_peft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = attached(build("llama"), kind="lora", r=2)
        adapter = _FusedForward.adapter
        monkeypatch.setattr(_FusedForward, "adapter", lambda self: (*adapter(self)[:2], 2 * adapter(self)[2]))
        from finetune.methods.lora_kernel import give_back

        give_back(made)
        assert speed_up(made) == 0
        assert all(not value.any() for key, value in made.named_parameters() if "lora_B" in key)


def test_a_layer_whose_weight_is_used_without_calling_it_is_found_in_the_source() -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP
    from transformers.models.mamba.modeling_mamba import MambaMixer

    assert {"dt_proj", "out_proj"} <= read_past(MambaMixer)
    assert read_past(LlamaAttention) == read_past(LlamaMLP) == frozenset()
