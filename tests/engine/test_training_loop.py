"""A training through the arguments that real runs use: accumulation and order change nothing, a person can stop it, memory is named."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from letters import llama, tokenizer
from transformers import TrainerCallback, TrainingArguments

from finetune.errors import OutOfMemory, TrainingError
from finetune.events import Notice, Recorder, TrainingFinished, TrainingStep
from finetune.hardware.machine import Machine, inspect
from finetune.hardware.peak_memory import PeakMemory
from finetune.methods.base import MethodContext
from finetune.methods.full import Full
from finetune.methods.lora import LoRA
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.system.stopping import LOST, ended_like_ctrl_c
from finetune.training import loop
from finetune.training.callbacks import ReportSteps, StopOnSignal
from finetune.training.checkpoints import Checkpoints
from finetune.training.loop import Outcome, train
from finetune.training.loss.kernel import NO_TRITON
from finetune.training.resumable import SavePolicy
from finetune.training.trainer import SupervisedTrainer

RECIPE = {
    "method": {"kind": "lora", "r": 4, "dropout": 0.0},
    "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return inspect(RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path_factory.mktemp("cache")))


def rows(count: int = 24) -> Dataset:
    """Rows of very different lengths, so that batches differ in their number of supervised tokens."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        length = 6 + (number * 7) % 23
        ids = torch.randint(6, 36, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :], "length": length})
    return Dataset.from_list(made)


def adapted(*, freeze: bool = True) -> Any:
    """In float64, so that only mistakes show."""
    method: Any = LoRA() if freeze else Full()
    spec = method.Spec(r=4, dropout=0.0) if freeze else method.Spec()
    return method.attach(llama(seed=2), spec, MethodContext(total_steps=6, seed=1)).double()


def trained(model: Any, machine: Machine, folder: Path, reporter: Any = None, **changes: Any) -> Outcome:
    recipe = Recipe.from_layers(RECIPE, {"training": changes})
    return train(model, tokenizer(), rows(), recipe, machine, reporter or Recorder(), folder=folder)


def difference(one: Any, other: Any) -> float:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


@pytest.mark.parametrize("freeze", [True, False], ids=["lora", "full"])
def test_four_batches_added_up_are_one_large_batch(freeze: bool, machine: Machine, tmp_path: Path) -> None:
    start, large, small = (adapted(freeze=freeze) for _ in range(3))
    one = trained(large, machine, tmp_path / "large")
    four = trained(small, machine, tmp_path / "small", batch_size=2, gradient_accumulation=4)
    assert one.finished.steps == four.finished.steps == 6
    assert difference(large, start) > 0.01, "something was learned"
    assert difference(large, small) < 1e-9
    assert one.finished.first_loss == pytest.approx(four.finished.first_loss, abs=1e-4)
    assert one.finished.real_tokens == four.finished.real_tokens == 2 * sum(rows()["length"])


def test_checkpointed_activations_change_nothing(machine: Machine, tmp_path: Path) -> None:
    plain, saved = adapted(), adapted()
    trained(plain, machine, tmp_path / "plain")
    trained(saved, machine, tmp_path / "saved", activation_checkpointing=True)
    assert difference(plain, saved) < 1e-9


@pytest.mark.parametrize(("why", "level"), [("Failed to find C compiler.", "warning"), (NO_TRITON, "info")])
@pytest.mark.parametrize("local", [0, 1])
def test_a_gpu_on_which_no_kernel_can_be_made_trains_without_and_says_so_once(
    local: int, why: str, level: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in each process of a machine; and a compiler helps only where there is Triton."""
    monkeypatch.setattr(loop, "trouble", lambda: why)
    monkeypatch.setattr(loop, "PeakMemory", lambda device: PeakMemory("cpu"))
    monkeypatch.setattr(TrainingArguments, "local_process_index", local)
    recorder = Recorder()
    assert trained(adapted(), replace(machine, device="cuda"), tmp_path, recorder).finished.steps == 6
    said = [notice for notice in recorder.of(Notice) if "kernel" in notice.text]
    assert [notice.level for notice in said] == ([] if local else [level])
    for notice in said:
        assert notice.text.startswith(f"The fused loss kernel cannot be used here ({why.rstrip('.')}): torch's own operations compute")
        assert ("gcc" in notice.text) is (why != NO_TRITON)


def test_every_step_is_reported_with_its_loss_and_rate(machine: Machine, tmp_path: Path) -> None:
    recorder = Recorder()
    outcome = trained(adapted(), machine, tmp_path, recorder)
    steps = recorder.of(TrainingStep)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.total_steps for step in steps} == {6}
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].learning_rate < max(step.learning_rate for step in steps) <= 0.01
    assert all(step.tokens_per_second > 0 and step.memory_bytes > 0 for step in steps)
    assert not outcome.stopped


@pytest.mark.parametrize(
    ("scheduler", "warmup", "rates"),
    [
        ("linear", 0, [6, 5, 4, 3, 2, 1]),
        ("linear", 0.3, [0, 3, 6, 4.5, 3, 1.5]),
        ("cosine", 0, [3 + 3 * math.cos(math.pi * step / 6) for step in range(6)]),
        ("cosine", 0.3, [0, 3, *(3 + 3 * math.cos(math.pi * step / 4) for step in range(4))]),
        ("constant", 0.3, [6] * 6),
        ("constant_with_warmup", 0.3, [0, 3, 6, 6, 6, 6]),
        ("constant_with_warmup", 0.03, [6] * 6),  # a warm-up of one step would be a step that is lost
    ],
)
def test_the_rate_of_each_step_follows_the_schedule(
    scheduler: str, warmup: float, rates: list[float], machine: Machine, tmp_path: Path
) -> None:
    recorder, seen = Recorder(), Rates()
    recipe = Recipe.from_layers(RECIPE, {"training": {"scheduler": scheduler, "warmup": warmup, "learning_rate": 0.006}})
    train(adapted(), tokenizer(), rows(), recipe, machine, recorder, folder=tmp_path, callbacks=[seen])
    assert seen.used == pytest.approx([rate / 1000 for rate in rates])
    assert [step.learning_rate for step in recorder.of(TrainingStep)] == pytest.approx(seen.used)


class Rates(TrainerCallback):
    """Notes the learning rate that each step is made with."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.used.append(kwargs["optimizer"].param_groups[0]["lr"])


def test_the_optimizer_is_the_one_that_the_documents_name(machine: Machine, tmp_path: Path) -> None:
    given = loop.training_arguments(Recipe.from_layers(RECIPE), machine, tmp_path, autocast=False)
    assert (given.optim.value.startswith("adamw"), given.weight_decay, given.max_grad_norm) == (True, 0.0, 1.0)


def test_a_run_of_one_step_learns_something(machine: Machine, tmp_path: Path) -> None:
    start, model = adapted(), adapted()
    assert trained(model, machine, tmp_path, epochs=1, batch_size=24).finished.steps == 1
    assert difference(start, model) > 1e-3


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [(1, 1.0, 1.0), (2, 1.0, 2.0), (3, 1.0, 3.0), (5, 1.5, 4.5), (9, 2.5, 7.5), (10, 3.0, 8.0), (40, 3.0, 38.0)],
)
def test_no_step_is_in_both_the_first_and_the_final_loss(steps: int, first: float, last: float) -> None:
    report = ReportSteps(Recorder(), PeakMemory("cpu"))
    losses = [float(number + 1) for number in range(steps)]
    report.first_losses = losses[:5]
    report.last_losses.extend(losses)
    assert report.ends(steps) == (first, last)


def test_the_loss_of_one_step_is_told_once() -> None:
    totals: dict[str, Any] = {
        "train_seconds": 1.0,
        "real_tokens": 1,
        "tokens_per_second": 1.0,
        "supervised_tokens": 1,
        "peak_memory_bytes": 1,
    }
    finished = TrainingFinished(steps=1, trainable_parameters=1, parameters=1, first_loss=2.5, final_loss=2.5, **totals)
    assert finished.made == "1 step, loss 2.50"
    assert replace(finished, steps=2, final_loss=2.0).made == "2 steps, loss 2.50 -> 2.00"


@pytest.mark.parametrize(
    ("failure", "expected", "words"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            OutOfMemory,
            "Even one row",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory, "Even one row"),
        (RuntimeError("shapes do not match\nmore"), TrainingError, "shapes do not match"),
    ],
    ids=["memory of the processor", "memory of a GPU", "anything else"],
)
def test_what_torch_raises_becomes_a_sentence(
    failure: Exception, expected: type[Exception], words: str, machine: Machine, tmp_path: Path
) -> None:
    class Failing(SupervisedTrainer):
        def compute_loss(self, *_: Any, **__: Any) -> Any:
            raise failure

    for checkpointing in (False, "auto", True):
        recipe = Recipe.from_layers(RECIPE, {"training": {"activation_checkpointing": checkpointing}})
        with pytest.raises(expected, match=words) as raised:
            train(adapted(), tokenizer(), rows(), recipe, machine, Recorder(), folder=tmp_path, make_trainer=Failing)
        assert "\n" not in str(raised.value)
        if expected is OutOfMemory:
            hint = str(getattr(raised.value, "hint", ""))
            assert ("activation_checkpointing=true" in hint) == (checkpointing is False)
            assert "max_length" in hint


class SmallMemory(SupervisedTrainer):
    """Has room for three rows at a time, and less in the middle of the backward pass than in the forward pass."""

    rows = 3

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
        loss = super().compute_loss(model, inputs, *more, **others)
        if len(inputs["input_ids"]) > self.rows:
            loss.register_hook(run_out_of_memory)
        return loss


def run_out_of_memory(gradient: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("freeze", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_step_that_does_not_fit_goes_on_in_smaller_parts_to_the_same_result(
    freeze: bool, accumulation: int, machine: Machine, tmp_path: Path
) -> None:
    roomy, tight, recorder = adapted(freeze=freeze), adapted(freeze=freeze), Recorder()
    recipe = Recipe.from_layers(RECIPE, {"training": {"gradient_accumulation": accumulation}})
    enough = train(roomy, tokenizer(), rows(), recipe, machine, Recorder(), folder=tmp_path / "roomy")
    small = train(tight, tokenizer(), rows(), recipe, machine, recorder, folder=tmp_path / "tight", make_trainer=SmallMemory)
    assert difference(roomy, adapted(freeze=freeze)) > 0.005
    assert difference(roomy, tight) < 1e-9
    assert small.finished.steps == enough.finished.steps
    assert (small.finished.real_tokens, small.finished.first_loss) == (enough.finished.real_tokens, enough.finished.first_loss)
    (notice,) = [notice.text for notice in recorder.of(Notice) if "memory" in notice.text]
    assert "Step 1 ran out of memory with 8 rows at a time; it continues with 2 at a time" in notice
    assert f"--set training.batch_size=2 --set training.gradient_accumulation={4 * accumulation}" in notice


class NoRoomForActivations(SupervisedTrainer):
    """Has room for a row whose activations are not kept, and for one with them up to the second step."""

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
        loss = super().compute_loss(model, inputs, *more, **others)
        if self.state.global_step >= 1 and not self.model.get_base_model().is_activation_checkpointing:
            loss.register_hook(run_out_of_memory)
        return loss


def test_where_one_row_does_not_fit_activations_are_computed_again_to_the_same_result(machine: Machine, tmp_path: Path) -> None:
    roomy, tight, recorder = adapted(), adapted(), Recorder()
    recipe = Recipe.from_layers(RECIPE, {"training": {"save_every": 4}})
    train(roomy, tokenizer(), rows(), recipe, machine, Recorder(), folder=tmp_path / "roomy")
    train(tight, tokenizer(), rows(), recipe, machine, recorder, folder=tmp_path / "tight", make_trainer=NoRoomForActivations)
    assert difference(roomy, adapted()) > 0.005
    assert difference(roomy, tight) < 1e-9
    (notice,) = [notice.text for notice in recorder.of(Notice) if "activation checkpointing" in notice.text]
    assert notice.startswith("Step 2 ran out of memory with one row at a time too")
    (start,) = [saved for saved in Checkpoints(tmp_path / "tight").all() if saved.step == 4]
    again, silent = adapted(), Recorder()
    train(again, tokenizer(), rows(), recipe, machine, silent, folder=tmp_path / "on", make_trainer=NoRoomForActivations, start=start)
    assert difference(tight, again) == 0
    assert not [notice for notice in silent.of(Notice) if "activation checkpointing" in notice.text], "it goes on as it was"


class Counter(TrainerCallback):
    """A method's memory between steps."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.seen = {"steps": torch.zeros(())}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seen["steps"] += 1

    def state_dict(self) -> dict[str, Any]:
        return dict(self.seen)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = dict(state)


def test_what_a_method_remembers_between_steps_comes_back(machine: Machine, tmp_path: Path) -> None:
    recipe = Recipe.from_layers(RECIPE, {"training": {"save_every": 4}})
    first, again, model = Counter(), Counter(), adapted()
    train(model, tokenizer(), rows(), recipe, machine, Recorder(), folder=tmp_path, callbacks=[first])
    (start,) = [saved for saved in Checkpoints(tmp_path).all() if saved.step == 4]
    goes_on = adapted()
    train(goes_on, tokenizer(), rows(), recipe, machine, Recorder(), folder=tmp_path / "on", callbacks=[again], start=start)
    assert float(first.seen["steps"]) == float(again.seen["steps"]) == 6
    assert difference(model, goes_on) == 0


def test_saving_by_the_clock_stays_a_small_share_of_the_time() -> None:
    now = 0.0
    policy = SavePolicy("auto", clock=lambda: now)
    assert policy.due(1, epoch_ends=True), "nothing is known of the cost yet, and an epoch of work is at stake"
    policy.saved(2.0)
    spent, saves = 0.0, 0
    for step in range(10_000):
        now += 1.0
        if policy.due(step, epoch_ends=step % 10 == 0):
            now, spent, saves = now + 2.0, spent + 2.0, saves + 1
            policy.saved(2.0)
    assert saves > 100
    assert spent / now < 0.06
    assert [step for step in range(1, 10) if SavePolicy(3).due(step, epoch_ends=False)] == [3, 6, 9]


@pytest.mark.skipif(not LOST, reason="no SIGHUP here")
def test_a_lost_connection_stops_after_the_step_and_does_not_disturb_what_is_saved_then() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        with StopOnSignal(Recorder()) as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.stopped
        with ended_like_ctrl_c():
            signal.raise_signal(signal.SIGHUP)  # raises nothing
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("epochs", "said"), [(1, True), (2, False)])
def test_a_loss_that_still_falls_is_told_of_rows_that_are_seen_once(epochs: int, said: bool, machine: Machine, tmp_path: Path) -> None:
    heard, many = Recorder(), concatenate_datasets([rows()] * 16)  # as many steps as it takes to tell
    recipe = Recipe.from_layers(RECIPE, {"training": {"epochs": epochs, "learning_rate": 1e-3, "scheduler": "constant"}})
    train(adapted(freeze=False), tokenizer(), many, recipe, machine, heard, folder=tmp_path)
    found = [event.text for event in heard.of(Notice) if "still falling" in event.text]
    assert len(found) == said
    assert not said or "2 epochs would take less than a minute more." in found[0]
