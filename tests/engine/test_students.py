"""Every way to make a student, on every architecture: it works, saved and loaded by transformers alone, or it is refused in a sentence."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lengths import few
from pico import NAMES, deep, pico, pico_rows
from transformers import AutoModelForCausalLM
from zoo import build

from finetune import registry
from finetune.distillation.students import planned_student
from finetune.distillation.students.closeness import BROKEN, OF_BROKEN, OF_CLOSE, Closeness, rate_for
from finetune.distillation.students.cutting import layer_stack
from finetune.distillation.students.ffn import FeedForward, kept_channels
from finetune.distillation.students.heads import kept_heads
from finetune.distillation.students.layers import blocks_to_leave_out
from finetune.distillation.students.making import make_student
from finetune.distillation.students.size import Size, likely_mix
from finetune.distillation.students.width import groups_of
from finetune.errors import ModelError, RecipeError
from finetune.events import Notice, Progress, Recorder
from finetune.recipe.settings import FromTeacher
from finetune.training.head import head_of

ROWS = pico_rows(6)
IDS = torch.arange(4, 24)[None]
FROM = partial(AutoModelForCausalLM.from_config)
ASKED: dict[str, dict[str, float]] = {
    "layers": {"layers": 4},
    "ffn": {"ffn": 0.8},
    "heads": {"heads": 0.5},
    "size": {"size": 0.75},
    "several": {"layers": 4, "ffn": 0.8},
}
NO_SIZE = "its configuration states no size for it alone"
REFUSED: dict[tuple[str, str], str] = {
    ("gpt2", "heads"): NO_SIZE,
    ("opt", "heads"): NO_SIZE,
    ("gpt_neox", "heads"): NO_SIZE,
    ("phi3", "heads"): "qkv_proj is several projections in one",
    ("phi3", "ffn"): "gate_up_proj is several projections in one",
    ("phi3", "several"): "gate_up_proj is several projections in one",
    ("mixtral", "ffn"): "it is a mixture of experts",
    ("mixtral", "several"): "it is a mixture of experts",
}


def test_every_way_has_a_key_of_the_recipe_and_a_test() -> None:
    assert registry.names("students") == list(FromTeacher.model_fields)
    assert set(registry.names("students")) < set(ASKED)


@pytest.mark.parametrize("way", ASKED)
@pytest.mark.parametrize("name", few(NAMES, "gpt2", "llama", "qwen3", "gemma2", "phi3", "mixtral"))
def test_a_student_is_what_transformers_loads_or_it_is_refused_by_run_and_plan(name: str, way: str, tmp_path: Path) -> None:
    teacher, wanted = deep(name), FromTeacher(**ASKED[way])
    before = teacher(IDS).logits
    if (name, way) in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name, way]) as refused:
            make_student(teacher, wanted, ROWS)
        with pytest.raises(ModelError, match=REFUSED[name, way]):
            planned_student(teacher.config, wanted.amounts(), FROM)
        assert "from_teacher.layers" in str(refused.value.hint)
        return
    made = make_student(teacher, wanted, ROWS)
    student = made.model
    assert torch.equal(teacher(IDS).logits, before)
    assert torch.equal(head_of(student).weight, head_of(teacher).weight)
    tied = teacher.get_input_embeddings().weight is teacher.get_output_embeddings().weight
    assert (student.get_input_embeddings().weight is student.get_output_embeddings().weight) == tied
    assert not {one.data_ptr() for one in teacher.parameters()} & {one.data_ptr() for one in student.parameters()}
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert made.facts["parameters"] == student.num_parameters() < teacher.num_parameters() == made.facts["of_parameters"]
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, student(IDS).logits)
    with torch.no_grad():
        cached = again.generate(IDS[:, :5], max_new_tokens=4, do_sample=False)
        assert torch.equal(cached, again.generate(IDS[:, :5], max_new_tokens=4, do_sample=False, use_cache=False))
    if way != "size":  # of which a plan knows only about how large it is
        assert FROM(planned_student(teacher.config, wanted.amounts(), FROM)).num_parameters() == student.num_parameters()


@pytest.mark.parametrize("name", [name for name in NAMES if (name, "ffn") not in REFUSED])
def test_channels_that_are_always_zero_are_the_ones_left_out_and_no_logit_changes(name: str) -> None:
    teacher = pico(name, n_inner=40) if name == "gpt2" else pico(name)
    smaller = FeedForward().planned(teacher.config, 32, FROM)
    silent = [1, 7, 8, 20, 21, 33, 38, 39]
    with torch.no_grad():
        for group in groups_of(teacher.config, smaller, FROM, 40, 32, "feed-forward part"):
            for parameter, side in group.sides.items():
                if not parameter.startswith(f"{group.reader}."):
                    teacher.get_parameter(parameter).index_fill_(side, torch.tensor(silent), 0.0)
    made = make_student(teacher, FromTeacher(ffn=32), ROWS)
    assert made.facts["ffn"] == 32
    torch.testing.assert_close(made.model(IDS).logits, teacher(IDS).logits, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if (name, "heads") not in REFUSED])
def test_heads_that_say_nothing_are_the_ones_left_out_and_no_logit_changes(name: str) -> None:
    teacher = pico(name, num_key_value_heads=4)
    size = teacher.config.head_dim if getattr(teacher.config, "head_dim", None) else 24 // 4
    with torch.no_grad():
        for number, layer in enumerate(layer_stack(teacher)):
            for head in ((0, 3), (1, 2), (2, 3))[number]:
                for parameter in layer.self_attn.v_proj.parameters():
                    parameter[head * size : (head + 1) * size] = 0
    made = make_student(teacher, FromTeacher(heads=2), ROWS)
    assert (made.model.config.num_attention_heads, made.model.config.num_key_value_heads) == (2, 2)
    torch.testing.assert_close(made.model(IDS).logits, teacher(IDS).logits, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("diffllama", "what is left would not compute what it did in the teacher"),  # a head is compared with another one
        ("bitnet", "other parts depend on its size too"),
        ("falcon", NO_SIZE),
        ("mamba", NO_SIZE),
        ("gemma4_text", "its size differs from layer to layer"),
        ("olmoe", "OlmoeRMSNorm spans all of its channels"),
    ],
)
def test_heads_that_cannot_be_left_out_are_refused(name: str, why: str) -> None:
    with pytest.raises(ModelError, match=f"The attention of a {name} cannot be made narrower here: {why}"):
        make_student(build(name), FromTeacher(heads=2), ROWS)


def test_feed_forward_parts_that_differ_from_layer_to_layer_are_refused_as_that() -> None:
    shape = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
    teacher = build("gemma4_text", use_double_wide_mlp=True, **shape)
    with pytest.raises(ModelError, match="a gemma4_text cannot be made narrower here: its size differs from layer to layer"):
        make_student(teacher, FromTeacher(ffn=32), ROWS)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_narrower_student_is_its_teacher_with_the_quietest_channels_at_zero(name: str) -> None:
    teacher, quiet = (pico(name, n_inner=40) if name == "gpt2" else pico(name)), {}
    readers = [layer.mlp.c_proj if name == "gpt2" else layer.mlp.down_proj for layer in layer_stack(teacher)]

    def silence(reader: Any, args: Any) -> Any:
        return (args[0].index_fill(-1, quiet[reader], 0.0),)

    for reader in readers:
        rows = []
        with reader.register_forward_pre_hook(lambda _, args, rows=rows: rows.append(args[0][0].abs().mean(0))), torch.no_grad():
            for row in ROWS:
                teacher(torch.tensor([row["input_ids"]]))
        quiet[reader] = torch.stack(rows).square().sum(0).argsort()[:8]
    student = make_student(teacher, FromTeacher(ffn=32), ROWS).model
    for reader in readers:
        reader.register_forward_pre_hook(silence)
    torch.testing.assert_close(student(IDS).logits, teacher(IDS).logits, rtol=1e-5, atol=1e-5)


def test_heads_that_share_keys_and_values_stay_as_many_in_every_group() -> None:
    teacher = pico("llama")
    with torch.no_grad():
        for layer in layer_stack(teacher):  # heads 0 and 1 share, 2 and 3 do: one of each stays, even if both of one say more
            layer.self_attn.v_proj.weight[:6] *= 10
    kept = layer_stack(make_student(teacher, FromTeacher(heads=0.5), ROWS).model)
    for before, after in zip(layer_stack(teacher), kept, strict=True):
        of = [
            next(at for at in range(4) if torch.equal(before.self_attn.q_proj.weight[6 * at : 6 * at + 6], rows))
            for rows in after.self_attn.q_proj.weight.split(6)
        ]
        assert of[0] in (0, 1)
        assert of[1] in (2, 3)
        assert torch.equal(before.self_attn.k_proj.weight, after.self_attn.k_proj.weight)


def test_layers_alone_are_the_teachers_own_bit_for_bit() -> None:
    teacher = deep("llama")
    student = make_student(teacher, FromTeacher(layers=4), ROWS).model
    block = blocks_to_leave_out(teacher, [4], ROWS)[4]
    kept = [number for number in range(6) if number not in (block.start, block.start + 1)]
    theirs = teacher.state_dict()
    for name, weight in student.state_dict().items():
        found = re.sub(r"layers\.(\d+)", lambda place: f"layers.{kept[int(place[1])]}", name)
        assert torch.equal(weight, theirs[found]), name


def test_the_size_is_met_by_the_closest_of_a_few_students_and_that_is_said() -> None:
    teacher, recorder = pico("llama", intermediate_size=320, num_hidden_layers=8), Recorder()
    made = make_student(teacher, FromTeacher(size=0.75), ROWS, reporter=recorder)
    told = [event for event in recorder.of(Progress) if event.stage == "student"]
    assert 0 < told[0].done < told[-1].done <= told[-1].total == Size.passes * sum(len(row["input_ids"]) for row in ROWS)
    assert told[-1].done > 0.5 * told[-1].total
    said = recorder.of(Notice)[0].text
    measured = [float(number) for number in re.findall(r"(\d+\.\d\d) \([^)]*(?:layers|channels)\)", said)]
    assert len(measured) > 2
    assert measured == sorted(measured)
    assert math.isclose(Closeness(teacher, ROWS).of(made.model), measured[0], abs_tol=0.006)
    assert abs(made.facts["parameters"] / made.facts["of_parameters"] - 0.75) < 0.03


def test_a_size_that_no_student_has_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no student has 0\.1 of the teacher's parameters"):
        make_student(deep("llama"), FromTeacher(size=0.1), ROWS)


def test_a_size_too_near_to_the_teacher_is_refused_with_the_largest_that_can_be_made() -> None:
    teacher = pico("llama", num_hidden_layers=4)
    with pytest.raises(RecipeError, match=r"no student has 0\.98 of the teacher's parameters: the largest has 79 %") as refused:
        likely_mix(teacher, 0.98)
    assert str(refused.value.hint).endswith("--set model.from_teacher.size=0.78")
    assert str(likely_mix(teacher, 0.78)) == "3 layers"


@pytest.mark.parametrize(("amount", "kept"), [(0.75, 1152), (864, 864), (0.56, 864), (900, 896)])
def test_widths_are_multiples_of_32(amount: float, kept: int) -> None:
    assert kept_channels(amount, 1536) == kept


def test_what_was_rounded_is_said() -> None:
    assert "32 of 40 channels" in make_student(pico("llama"), FromTeacher(ffn=0.8), ROWS).said
    assert "rounded" not in make_student(pico("llama"), FromTeacher(ffn=32), ROWS).said
    assert "rounded to a multiple of 32" in make_student(pico("llama"), FromTeacher(ffn=0.7), ROWS).said


@pytest.mark.parametrize("amount", [1536, 0.999, 0.001, 5000])
def test_impossible_widths_name_the_possible_ones(amount: float) -> None:
    with pytest.raises(RecipeError, match="of the teacher's 1,536 channels") as refused:
        kept_channels(amount, 1536)
    assert "Multiples of 32" in str(refused.value.hint)


def test_counts_and_shares_of_heads() -> None:
    assert kept_heads(0.67, 9, 3) == 6
    assert kept_heads(5, 12, 1) == 5
    with pytest.raises(RecipeError, match="9 of the teacher's 9 attention heads") as refused:
        kept_heads(8, 9, 3)
    assert "Multiples of 3 below 9" in str(refused.value.hint)


def test_the_learning_rate_follows_how_far_the_student_begins_from_its_teacher() -> None:
    teacher = deep("llama")
    near = rate_for(make_student(teacher, FromTeacher(ffn=0.8), ROWS).model, teacher, ROWS)
    same = rate_for(teacher, teacher, ROWS)
    far = rate_for(pico("llama", seed=7), teacher, ROWS)
    assert same.kl < 1e-6
    assert near.kl < BROKEN <= far.kl
    assert (same.value, near.value, far.value) == (OF_CLOSE, OF_CLOSE, OF_BROKEN)
    assert f"KL of {far.kl:.2f}" in far.said
    assert "0.0005" in far.said
