"""Ranks that move: by the real schedule, by importance, with the penalty in the loss once a step, and a result that anything loads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from method_runs import ROWS, finished, trained
from pico import Rows, arguments, assert_same_weights, losses, pico, pico_rows
from transformers import AutoModelForCausalLM

from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError
from finetune.events import RanksSettled, Recorder
from finetune.methods.adalora import FEWEST_STEPS, AdaLoRA, phases
from finetune.methods.adalora_ranks import MoveRanks, as_lora, orthogonality, svd_layers
from finetune.methods.base import MethodContext
from finetune.recipe import Recipe
from finetune.training.trainer import SupervisedTrainer


def spec(**changes: Any) -> Any:
    return Recipe.from_layers({"method": {"kind": "adalora", **changes}}).method


def adapted(name: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A pico model with triplets that do something, far from orthonormal."""
    model = AdaLoRA().attach(pico(name), spec(dropout=0, **changes), MethodContext(20, seed=1))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)
    return model


def ranks(model: Any) -> list[int]:
    return [int((layer.lora_E["default"] != 0).sum()) for layer in svd_layers(model).values()]


def test_ranks_fall_to_the_budget_and_differ_between_layers(tmp_path: Path) -> None:
    run = trained("adalora", tmp_path, epochs=20, method={"r": 2, "init_r": 5})
    assert sum(ranks(run.model)) == 2 * len(ranks(run.model))
    assert len(set(ranks(run.model))) > 1
    finished(run)
    (settled,) = run.recorder.of(RanksSettled)
    assert sum(settled.ranks.values()) == 2 * len(settled.ranks)
    assert "model.layers.0.self_attn.q_proj" in settled.ranks


def test_the_schedule_is_the_trainers_own(tmp_path: Path) -> None:
    model = AdaLoRA().attach(pico("llama"), spec(), MethodContext(total_steps=1000))
    seen: list[int] = []

    class Watch(MoveRanks):
        def on_optimizer_step(self, *given: Any, **more: Any) -> None:
            super().on_optimizer_step(*given, **more)
            seen.append(sum(ranks(model)))

    watch = Watch(model, lambda steps: phases(steps, spec()))
    SupervisedTrainer(
        model=model, args=arguments(tmp_path, num_train_epochs=4, optim="adamw_torch"), train_dataset=Rows(pico_rows(20)), callbacks=[watch]
    ).train()
    layers = len(svd_layers(model))
    assert len(seen) == 20
    assert seen[:2] == [12 * layers] * 2, "nothing moves at the start"
    assert 8 * layers < seen[5] < 12 * layers
    assert seen[13:] == [8 * layers] * 7, "the last steps train what was found"


@pytest.mark.parametrize("steps", range(FEWEST_STEPS, 9))
def test_short_runs_end_at_the_budget_too(steps: int, tmp_path: Path) -> None:
    run = trained("adalora", tmp_path, epochs=steps, batch_size=4)
    assert len(run.losses) == steps
    assert sum(ranks(run.model)) == 8 * len(ranks(run.model))


def test_too_few_steps_are_refused_in_a_sentence() -> None:
    with pytest.raises(RecipeError, match="3 steps; it needs at least 4"):
        AdaLoRA().attach(pico("llama"), spec(), MethodContext(total_steps=3))


@given(steps=some.integers(FEWEST_STEPS, 3000), start=some.floats(0, 0.99), end=some.floats(0, 0.99))
def test_there_are_always_steps_in_which_the_ranks_can_move(steps: int, start: float, end: float) -> None:
    if start + end < 1:
        before, after = phases(steps, spec(start=start, end=end))
        assert before >= 0
        assert after >= 0
        assert steps - before - after >= 2


@pytest.mark.parametrize("changes", [{"r": 8, "init_r": 8}, {"start": 0.6, "end": 0.5}])
def test_settings_that_leave_no_room_to_move_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"change|decrease"):
        spec(**changes)


def test_a_layer_that_no_token_goes_through_does_not_stop_the_run() -> None:
    model = adapted()
    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    idle = next(iter(svd_layers(model).values()))
    for parameter in (idle.lora_A["default"], idle.lora_B["default"], idle.lora_E["default"]):
        parameter.grad = None
    move = MoveRanks(model, lambda steps: (0, 0))
    state = SimpleNamespace(max_steps=4, global_step=0)
    move.on_train_begin(None, state, None)
    move.on_optimizer_step(None, state, None)
    assert int((idle.lora_E["default"] != 0).sum()) == 0, "what no token needs is the least important"


@pytest.mark.parametrize("spoilt", [{0}, {0, 1, 4}, {5}])
def test_the_ranks_move_on_after_a_step_that_overflowed_in_float16(spoilt: set[int]) -> None:
    """The optimizer skips such a step, and the callbacks still hear of it, with infinite gradients or, where they were clipped, none."""
    model = adapted(r=2)
    start = ranks(model)
    move = MoveRanks(model, lambda steps: (2, 3))  # ten steps: the seventh decides
    state = SimpleNamespace(max_steps=10, global_step=0)
    move.on_train_begin(None, state, None)
    for step in range(10):
        state.global_step = step
        ids = torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(step))
        model(ids, labels=ids).loss.backward()
        if step in spoilt:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            for number, gradient in enumerate(gradients):
                gradient.mul_(float("nan") if number % 2 else float("inf"))
        move.on_optimizer_step(None, state, None)
        remembered = [tensor for average in move.state_dict().values() for tensor in average.values()]
        assert all(torch.isfinite(tensor).all() for tensor in remembered)
        model.zero_grad()
    assert sum(ranks(model)) == 2 * len(start) < sum(start)
    assert len(set(ranks(model))) > 1


@pytest.mark.parametrize("at", [5, 6, 7, 9])
def test_a_run_that_goes_on_from_a_checkpoint_keeps_its_ranks(at: int) -> None:
    """The importances are not in a checkpoint; the zeros are."""
    model = adapted()
    for number, layer in enumerate(svd_layers(model).values()):
        with torch.no_grad():
            layer.lora_E["default"][: 3 + number % 3] = 0
    before = ranks(model)
    move = MoveRanks(model, lambda steps: (1, 3))  # ten steps: settled from the seventh on
    state = SimpleNamespace(max_steps=10, global_step=at)
    move.on_train_begin(None, state, None)
    while state.global_step < 10:
        model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        if at >= 7:
            with torch.no_grad():
                for layer in svd_layers(model).values():
                    layer.lora_E["default"].add_(0.01)  # what momentum does
        move.on_optimizer_step(None, state, None)
        model.zero_grad()
        state.global_step += 1
    if at >= 7:
        assert ranks(model) == before
    else:
        assert sum(ranks(model)) <= 8 * len(before)


def reference_penalty(model: Any) -> float:
    """Equation 4 of the paper, layer by layer."""
    found = []
    for layer in svd_layers(model).values():
        p, q = layer.lora_B["default"].double(), layer.lora_A["default"].double()
        one = torch.eye(q.shape[0], dtype=torch.float64)
        found.append(torch.linalg.matrix_norm(p.T @ p - one) ** 2 + torch.linalg.matrix_norm(q @ q.T - one) ** 2)
    return float(sum(found) / len(found))


def test_the_penalty_is_the_papers_and_starts_at_nothing() -> None:
    assert orthogonality(adapted()).item() == pytest.approx(reference_penalty(adapted()), rel=1e-5)
    fresh = AdaLoRA().attach(pico("llama"), spec(), MethodContext(20))
    assert orthogonality(fresh).item() < 1e-6


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (1, 8)])
def test_the_penalty_counts_once_a_step_however_the_step_is_cut(batch: int, accumulation: int, tmp_path: Path) -> None:
    rows = Rows(pico_rows(8))

    def one_step(**sizes: int) -> tuple[Any, float]:
        model = adapted()
        trainer = SupervisedTrainer(model=model, args=arguments(tmp_path, learning_rate=1e-3, **sizes), train_dataset=rows)
        trainer.penalty = AdaLoRA().penalty(model, spec())
        trainer.train()
        return model, losses(trainer)[0]

    plain = adapted()
    trainer = SupervisedTrainer(model=plain, args=arguments(tmp_path, per_device_train_batch_size=8), train_dataset=rows)
    trainer.train()
    model, loss = one_step(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    assert loss == pytest.approx(losses(trainer)[0] + 0.1 * reference_penalty(adapted()), rel=1e-4)
    whole, _ = one_step(per_device_train_batch_size=8, gradient_accumulation_steps=1)
    assert_same_weights(model, whole, tolerance=1e-5)
    pulled = next(iter(svd_layers(model).values())).lora_A["default"] - next(iter(svd_layers(plain).values())).lora_A["default"]
    assert pulled.abs().max() > 1e-5, "the gradient has it too"


def test_the_penalty_is_no_part_of_an_evaluation(tmp_path: Path) -> None:
    rows, found = Rows(pico_rows(4)), []
    for weight in (0.0, 3.0):
        model = adapted()
        trainer = SupervisedTrainer(model=model, args=arguments(tmp_path), eval_dataset=rows)
        trainer.penalty = AdaLoRA().penalty(model, spec(orthogonality=weight))
        found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == found[1]


def test_a_distillation_has_it_as_well(tmp_path: Path) -> None:
    model = adapted()
    trainer = DistillationTrainer(
        model=model, teacher_model=pico("llama", seed=4), args=arguments(tmp_path), train_dataset=Rows(pico_rows(4))
    )
    trainer.penalty = AdaLoRA().penalty(model, spec())
    trainer.train()
    parts = trainer.last_parts
    assert parts["penalty"] == pytest.approx(0.1 * reference_penalty(adapted()), rel=1e-4)
    assert losses(trainer)[0] > parts["penalty"]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_the_fused_layers_compute_what_pefts_do(name: str) -> None:
    fast, plain = adapted(name), adapted(name)
    for layer in svd_layers(plain).values():
        layer.forward = type(layer).forward.__get__(layer)
    found = []
    for model in (fast, plain):
        model(torch.tensor([ROWS[0]["input_ids"]]), labels=torch.tensor([ROWS[0]["input_ids"]])).loss.backward()
        found.append({key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 3 * len(svd_layers(fast))
    for key, gradient in found[1].items():
        torch.testing.assert_close(found[0][key], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=key)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_the_result_is_plain_lora_with_the_same_answers(name: str, tmp_path: Path) -> None:
    pico(name).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = AdaLoRA().attach(base, spec(), MethodContext(20)).eval()
    layers = list(svd_layers(model).values())
    torch.manual_seed(2)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.lora_E["default"].normal_()[: number % 13] = 0  # one layer keeps none of its twelve
        before = model(torch.tensor([ROWS[0]["input_ids"]])).logits
        plain, found = as_lora(model)
        plain.eval()
        torch.testing.assert_close(plain(torch.tensor([ROWS[0]["input_ids"]])).logits, before, rtol=0, atol=1e-3)
    assert list(found.values()) == [12 - number % 13 for number in range(len(layers))]
    assert plain.peft_config["default"].peft_type.value == "LORA"
    plain.save_pretrained(tmp_path / "result")
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "result", dtype=torch.float32).eval()
        torch.testing.assert_close(again(torch.tensor([ROWS[0]["input_ids"]])).logits, before, rtol=0, atol=1e-3)


def test_the_result_no_longer_hangs_on_the_layers_it_was_made_from() -> None:
    model = adapted().eval()
    layers = list(svd_layers(model).values())
    ids = torch.tensor([ROWS[0]["input_ids"]])
    with torch.no_grad():
        plain = AdaLoRA().finish(model, spec(), Recorder())
        before = plain(ids).logits
        for layer in layers:
            layer.lora_B["default"].zero_()
        assert torch.equal(plain(ids).logits, before)
        for name, parameter in plain.named_parameters():
            if "down_proj.lora_B" in name:
                parameter.zero_()
        assert not torch.equal(plain(ids).logits, before)


def test_a_run_stopped_before_it_learnt_anything_can_be_saved(tmp_path: Path) -> None:
    plain, found = as_lora(AdaLoRA().attach(pico("llama"), spec(), MethodContext(20)))
    assert sum(found.values()) == 1
    plain.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
