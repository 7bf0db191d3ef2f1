"""Students cut out of their teachers, and the doctor's findings."""

from __future__ import annotations

import re
import warnings
from typing import Any

import peft
import pytest
import torch
import transformers
from letters import tokenizer as letters_tokenizer
from pico import NAMES, deep, pico, pico_rows
from transformers import AutoModelForCausalLM

from finetune.distillation.pair_checks import examine, stop_on_problem
from finetune.distillation.students.cutting import kept_layers, layer_stack
from finetune.distillation.students.layers import blocks_to_leave_out
from finetune.distillation.students.making import make_student
from finetune.distillation.trainer_inputs import warn_of_smaller
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import ModelError, RecipeError, TrainingError, VocabularyMismatch
from finetune.events import Notice, Recorder
from finetune.recipe.settings import FromTeacher
from finetune.training.head import head_of
from finetune.training.loop import parameters_of

ROWS = pico_rows(6)
IDS = torch.arange(4, 24)[None]


def lazy_layer(model: Any, index: int) -> None:
    """Make a layer that adds nothing to the residual stream: its output projections are zero."""
    layer = layer_stack(model)[index]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


class TestMakingAStudent:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_reloads_generates_and_leaves_the_teacher_alone(self, name: str, tmp_path) -> None:
        teacher = deep(name)
        before = teacher(IDS).logits
        student = make_student(teacher, FromTeacher(layers=4), ROWS).model
        assert len(layer_stack(student)) == student.config.num_hidden_layers == 4
        torch.testing.assert_close(teacher(IDS).logits, before, rtol=0, atol=0)
        torch.testing.assert_close(head_of(student).weight, head_of(teacher).weight, rtol=0, atol=0)
        student.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(IDS).logits, student(IDS).logits)
        with torch.no_grad():
            cached = student.generate(IDS[:, :5], max_new_tokens=4, do_sample=False)
            uncached = student.generate(IDS[:, :5], max_new_tokens=4, do_sample=False, use_cache=False)
        assert torch.equal(cached, uncached)

    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            ("GPTNeo", {"num_layers": 6, "num_heads": 4, "attention_types": [[["global", "local"], 3]], "window_size": 4}),
            ("Rwkv", {"num_hidden_layers": 6, "attention_hidden_size": 24, "context_length": 64}),
        ],
    )
    def test_layers_that_are_numbered_by_another_name_are_numbered_anew(self, family: str, settings: dict, tmp_path) -> None:
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(vocab_size=131, hidden_size=24, bos_token_id=1, eos_token_id=2, **settings)
        student = make_student(AutoModelForCausalLM.from_config(config).eval(), FromTeacher(layers=3), ROWS).model
        student.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert len(layer_stack(again)) == 3
        if family == "GPTNeo":  # whose configuration says of which type a layer is in two ways
            assert config.expand_attention_types_params(again.config.attention_types) == again.config.attention_layers
            assert again.config.attention_layers == [layer.attn.attention_type for layer in layer_stack(student)]
        with torch.no_grad():
            expected = student(IDS, use_cache=False).logits
            torch.testing.assert_close(again(IDS, use_cache=False).logits, expected)
            torch.testing.assert_close(student(IDS, use_cache=True).logits, expected)

    def test_the_lazy_layers_are_the_ones_left_out(self) -> None:
        teacher = deep("llama")
        lazy_layer(teacher, 2)
        lazy_layer(teacher, 3)
        block = blocks_to_leave_out(teacher, [4], ROWS)[4]
        assert (block.start, block.length) == (2, 2)
        assert block.distance < 1e-3
        recorder = Recorder()
        student = make_student(teacher, FromTeacher(layers=4), ROWS, reporter=recorder).model
        torch.testing.assert_close(student(IDS).logits, teacher(IDS).logits)
        assert "4 of 6 layers: 3 to 4 are left out" in recorder.of(Notice)[0].text
        assert re.search(r"5 of 6 layers: layer [34] is left out", make_student(teacher, FromTeacher(layers=5), ROWS).said)

    def test_first_and_last_layer_stay_even_if_they_do_nothing(self) -> None:
        teacher = deep("llama")
        lazy_layer(teacher, 0)
        lazy_layer(teacher, 5)
        assert blocks_to_leave_out(teacher, [2], ROWS)[2].start == 1

    def test_every_weight_of_the_student_trains_apart_from_the_teacher(self) -> None:
        teacher = deep("qwen2").requires_grad_(False)
        student = make_student(teacher, FromTeacher(layers=3), ROWS).model
        assert all(parameter.requires_grad for parameter in student.parameters())
        shared = {parameter.data_ptr() for parameter in teacher.parameters()} & {parameter.data_ptr() for parameter in student.parameters()}
        assert not shared
        assert student.get_input_embeddings().weight is student.get_output_embeddings().weight

    def test_an_adapted_teacher_gives_a_student_with_the_adapter_merged(self) -> None:
        teacher = peft.get_peft_model(deep("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
        merged = peft.get_peft_model(deep("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        merged.load_state_dict(teacher.state_dict())
        expected = make_student(merged.merge_and_unload().eval(), FromTeacher(layers=4), ROWS).model
        student = make_student(teacher, FromTeacher(layers=4), ROWS).model
        assert not hasattr(student, "peft_config")
        torch.testing.assert_close(student(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("layers", "depth", "kept"), [(20, 30, 20), (0.67, 30, 20), (0.5, 12, 6), (2, 3, 2)])
    def test_counts_and_shares(self, layers: float, depth: int, kept: int) -> None:
        assert kept_layers(layers, depth) == kept

    @pytest.mark.parametrize("layers", [1, 30, 31, 0.01, 0.99])
    def test_impossible_depths_name_the_possible_ones(self, layers: float) -> None:
        with pytest.raises(RecipeError, match="of the teacher's 30 layers") as error:
            kept_layers(layers, 30)
        assert "Between 2 and 29" in str(error.value.hint)

    def test_quantised_teachers_and_missing_rows_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="calibration rows"):
            make_student(deep("llama"), FromTeacher(layers=4), [])
        quantised = deep("llama")
        quantised.quantization_method = "bitsandbytes"
        with pytest.raises(ModelError, match="quantised"):
            make_student(quantised, FromTeacher(layers=4), ROWS)


class Letters:
    """A tokenizer of single characters, as far as the doctor looks at one."""

    eos_token, eos_token_id, chat_template = "$", 2, None

    def __init__(self, vocabulary: str = "<>$abcdefghij", **changes: Any) -> None:
        self.vocabulary = {letter: index for index, letter in enumerate(vocabulary)}
        self.__dict__.update(changes)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [self.vocabulary[letter] for letter in text if letter in self.vocabulary]}


class TestVocabularies:
    def test_padded_heads_of_one_tokenizer_share_the_smaller(self) -> None:
        assert shared_vocabulary(151_936, 152_064, Letters(), Letters()) == 151_936

    def test_tokens_that_only_the_teacher_knows_are_cut(self) -> None:
        assert shared_vocabulary(16, 16, Letters(), Letters("<>$abcdefghij.°")) == 13

    @pytest.mark.parametrize("theirs", [Letters("<>$bacdefghij"), Letters("<>$abcdefghi")])
    def test_other_tokens_are_refused_with_a_way_out(self, theirs: Letters) -> None:
        with pytest.raises(VocabularyMismatch, match=r"\d of 13 tokens differ") as error:
            shared_vocabulary(13, 13, Letters(), theirs)
        assert "from_teacher" in str(error.value.hint)
        assert "gpt2-medium -> gpt2" in str(error.value.hint)

    def test_other_sizes_need_an_explanation(self) -> None:
        with pytest.raises(VocabularyMismatch, match="50257"):
            shared_vocabulary(50257, 50272)


class TestDoctor:
    def findings(self, student: Any, teacher: Any, rows: Any = ROWS, **more: Any) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"ok": [], "warning": [], "problem": []}
        for finding in examine(student, teacher, rows, **more):
            found[finding.level].append(finding.text)
        return found

    def test_a_sound_pair_passes_with_numbers(self) -> None:
        found = self.findings(pico("llama"), deep("llama"))
        assert not found["problem"]
        assert any("of 73 tokens" in text or "tokens are supervised" in text for text in found["ok"])
        stop_on_problem(examine(pico("llama"), deep("llama"), ROWS))

    def test_logits_that_are_not_finite(self) -> None:
        teacher = deep("llama")
        with torch.no_grad():
            teacher.model.norm.weight.fill_(float("inf"))
        found = self.findings(pico("llama"), teacher)
        assert any("teacher's logits are not finite in float32" in text for text in found["problem"])
        with pytest.raises(TrainingError, match="not finite"):
            stop_on_problem(examine(pico("llama"), teacher, ROWS))

    def test_a_float16_teacher_that_overflows_is_told_to_use_another_dtype(self) -> None:
        teacher = deep("llama", dtype=torch.float16)
        with torch.no_grad():
            teacher.lm_head.weight.fill_(6e4)
        problems = [finding for finding in examine(pico("llama"), teacher, ROWS) if finding.level == "problem"]
        assert "float16" in problems[0].text
        assert "bfloat16 or float32" in str(problems[0].hint)

    def test_nothing_to_train_and_nothing_to_learn(self) -> None:
        frozen = pico("llama").requires_grad_(False)
        assert any("None of the student's" in text for text in self.findings(frozen, deep("llama"))["problem"])
        silent = [{"input_ids": [5, 6, 7], "labels": [-100] * 3}]
        assert any("None of the 3 tokens is supervised" in text for text in self.findings(pico("llama"), deep("llama"), silent)["problem"])

    def test_a_worse_teacher_is_warned_about(self) -> None:
        student = deep("llama")
        rows = [
            {"input_ids": list(ids), "labels": list(ids)}
            for ids in student.generate(IDS[:, :3], max_new_tokens=12, do_sample=False).tolist()
        ]
        warnings = self.findings(student, pico("qwen3", seed=3), rows)["warning"]
        assert any("no better than the student" in text for text in warnings)

    def test_a_smaller_teacher_is_warned_about_where_no_plan_does_and_weights_in_four_bits_count_each(self) -> None:
        teacher, student = pico("llama"), torch.nn.Module()
        packed = torch.zeros(parameters_of(teacher) * 3 // 4, dtype=torch.uint8)
        student.weight = torch.nn.Parameter(packed, requires_grad=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_smaller([teacher], student)
        student.weight.quant_state = "of bitsandbytes"
        with pytest.warns(UserWarning, match="Did you swap them"):
            warn_of_smaller([teacher], student)

    def test_rows_beyond_the_teachers_context(self) -> None:
        long = [{"input_ids": [5] * 100, "labels": [5] * 100}]
        found = self.findings(pico("llama"), deep("llama", max_position_embeddings=64), long)
        assert any("100 tokens and the teacher's context is 64" in text for text in found["problem"])

    def test_tokenizers_and_their_small_differences(self) -> None:
        ours = Letters()
        found = self.findings(
            pico("llama"), deep("llama"), tokenizer=ours, teacher_tokenizer=Letters(eos_token_id=5, eos_token="c", chat_template="x")
        )
        assert any("end tokens differ" in text for text in found["warning"])
        assert any("chat templates differ" in text for text in found["warning"])
        with pytest.raises(VocabularyMismatch):
            examine(pico("llama"), deep("llama"), ROWS, tokenizer=ours, teacher_tokenizer=Letters("<>$bacdefghij"))

    def test_answers_that_never_end(self) -> None:
        found = self.findings(pico("llama"), deep("llama"), tokenizer=Letters(), teacher_tokenizer=Letters())
        assert any("will not learn to end its answers" in text for text in found["warning"])

    def test_answers_end_with_the_templates_own_token_where_it_has_one(self) -> None:
        made = letters_tokenizer(chat=True)
        assert made.eos_token == "</s>"
        told = made("yes<|end|>")["input_ids"]
        for tokens, warned in ((told, False), (told[:-1], True)):
            rows = [{"input_ids": [7, *tokens], "labels": [-100, *tokens]}]
            found = self.findings(pico("llama"), deep("llama"), rows, tokenizer=made, teacher_tokenizer=made)
            assert any("will not learn to end its answers" in text for text in found["warning"]) is warned
