"""Practice on the student's own answers: what is sampled, what the loss over it is, when it stops, and who cannot read it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from letters import tokenizer
from pico import VOCABULARY, Rows, arguments, assert_same_weights, losses, pico, pico_rows
from test_distillation_loss import naive_divergence
from test_programme import OBJECTIVES, cached, student_of, teacher_of
from torch import Tensor
from transformers import TrainerCallback

from finetune.distillation.on_policy.answers import Answer, Prompts, Writing, repetition, write_answers
from finetune.distillation.on_policy.practice import OWN, Practice, halves, replaced
from finetune.distillation.on_policy.trainer import slow_down
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError
from finetune.events import Notice, OwnAnswers, Recorder
from finetune.recipe.distillation_settings import OnPolicySpec

SPEC: dict[str, Any] = {"share": 0.5, "tokens": 6, "refresh": 5}
ROWS = pico_rows(8)
ENDS = list(range(2, 100))  # so many that a random model's answers end


class Snapshots(TrainerCallback):
    """The weights before each step, the rows of it, and its learning rate."""

    def __init__(self) -> None:
        self.steps: list[tuple[dict[str, Tensor], list[dict[str, Tensor]], float]] = []
        self.trainer: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = {name: parameter.detach().clone() for name, parameter in self.trainer.model.named_parameters()}
        self.steps.append((weights, self.trainer.step_batches, self.trainer.lr_scheduler.get_last_lr()[0]))


def ending(model: Any) -> Any:
    model.generation_config.eos_token_id = ENDS
    return model


def run(folder: Any, on_policy: Any = SPEC, tokenizers: Any = None, **changes: Any) -> tuple[Any, DistillationTrainer, Snapshots, Recorder]:
    """A student after two epochs of two steps each, the second with own answers."""
    recorder, seen = Recorder(), Snapshots()
    own = {name: changes.pop(name) for name in ("teacher_model", "cache", "objective", "alpha", "teacher_rows") if name in changes}
    own = {"teacher_model": teacher_of(7), "alpha": 0.3, **own, **(tokenizers or {})}
    student = ending(changes.pop("student", None) or student_of())
    trainer = DistillationTrainer(
        student,
        arguments(folder, **{"num_train_epochs": 2, "seed": 3, **changes}),
        train_dataset=Rows(ROWS),
        on_policy=on_policy,
        reporter=recorder,
        callbacks=[seen],
        **own,
    )
    seen.trainer = trainer
    trainer.train()
    return student, trainer, seen, recorder


def row_losses(student: Any, teacher: Any, batch: dict[str, Tensor], own_objective: str) -> tuple[Tensor, int]:
    """The loss summed over the tokens of a batch, each row alone and with full logits, and their number."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for place, length in enumerate(batch["length"].tolist()):
        ids, labels = batch["input_ids"][place, :length], batch["labels"][place, 1:length]
        mine = bool(batch[OWN][place]) if OWN in batch else False
        wanted = labels != -100
        ours, theirs = (model(ids[None]).logits[0, :-1][wanted] for model in (student, teacher))
        p, q = F.softmax(ours / 2, -1), F.softmax(theirs.detach() / 2, -1)
        soft = 4 * naive_divergence(own_objective if mine else "forward_kl", p, q).sum()
        hard = F.cross_entropy(ours, labels[wanted], reduction="sum")
        total = total + (soft if mine else 0.3 * hard + 0.7 * soft)
        count += int(wanted.sum())
    return total, count


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "taid"])
def test_a_step_moves_the_weights_as_the_textbook_says(objective: str, tmp_path: Any) -> None:
    """Over all supervised tokens of the step, with a fifth of the learning rate."""
    _, _, seen, recorder = run(tmp_path, {**SPEC, "objective": objective})
    assert [event.step for event in recorder.of(OwnAnswers)] == [3]
    assert [rate for _, _, rate in seen.steps] == pytest.approx([0.05, 0.05, 0.01, 0.01])
    (before, batches, rate), (after, _, _) = seen.steps[2], seen.steps[3]
    assert sum(int(batch[OWN].sum()) for batch in batches) == 2
    student = student_of()
    student.load_state_dict(before, strict=False)
    sums = [row_losses(student, teacher_of(7), batch, objective) for batch in batches]
    (sum(loss for loss, _ in sums) / sum(count for _, count in sums)).backward()
    for name, parameter in student.named_parameters():
        moved = torch.zeros(()) if parameter.grad is None else rate * parameter.grad
        torch.testing.assert_close(before[name] - after[name], moved.expand_as(before[name]).double(), rtol=1e-6, atol=1e-9)


def test_answers_come_as_often_as_enumeration_says(tmp_path: Any) -> None:
    """Two tokens over seven: every answer, prompts of two lengths side by side."""
    model = pico("llama", vocab_size=7, dtype=torch.float64)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.1)  # far from certain
    prompts, how = [[3, 4, 5, 6], [5]], Writing([2], 0, 2)
    found = write_answers(model, prompts * 2000, how, seed=1)
    for place, prompt in enumerate(prompts):
        drawn = [tuple(answer.ids) for answer in found[place::2]]
        for first, second in itertools.product(range(7), range(7)):
            answer = (first,) if first == 2 else (first, second)
            with torch.no_grad():
                p = F.softmax(model(torch.tensor([[*prompt, first]])).logits[0].double(), -1)
            exact = float(p[-2, first]) * (1.0 if first == 2 else float(p[-1, second]))
            assert drawn.count(answer) / 2000 == pytest.approx(exact, abs=5 * (exact * (1 - exact) / 2000) ** 0.5 + 1e-9)
    assert {answer.ended for answer in found if answer.ids[-1] == 2} == {True}
    assert {answer.ended for answer in found if answer.ids[-1] != 2} == {False}


def test_it_writes_without_dropout_and_leaves_everything_as_it_was() -> None:
    model = pico("gpt2")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    how = Writing(ENDS, 0, 8)
    prompts = [row["input_ids"] for row in ROWS]
    calm = write_answers(model.eval(), prompts, how, seed=5)
    state = torch.get_rng_state()
    assert write_answers(model.train(), prompts, how, seed=5) == calm
    assert write_answers(model, prompts, how, seed=6) != calm
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_that_runs_out_halves_the_answers_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, how = pico("llama"), [row["input_ids"] for row in ROWS], Writing(ENDS, 0, 4)
    real, sizes = model.generate, []

    def tight(ids: Tensor, **more: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(ids, **more)

    monkeypatch.setattr(model, "generate", tight)
    assert len(write_answers(model, prompts, how, seed=1)) == len(prompts)
    assert sizes[0] > 2
    assert set(sizes[-len(prompts) // 2 :]) <= {1, 2}


def test_the_end_is_learned_though_it_is_the_padding_and_prompts_are_not() -> None:
    rows = Rows([{"input_ids": [5, 6, 2, 7], "labels": [-100, -100, -100, 7]}])
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 2]]),
        "labels": torch.tensor([[-100, 6, 7], [-100, 9, 2]]),
        "length": torch.tensor([3, 3]),
        "row": torch.tensor([4, 9]),
    }
    made = replaced(batch, {1: (0, 3, [5, 6, 2, 11, 2])}, rows)  # 2 is end and padding
    of_data, own = halves(made)
    assert of_data.keys() == {"input_ids", "labels", "length", "row"}
    assert {name: value.tolist() for name, value in of_data.items()} == {
        **{"input_ids": [[5, 6, 7]], "labels": [[-100, 6, 7]]},
        **{"length": [3], "row": [4]},
    }
    assert own["input_ids"].tolist() == [[5, 6, 2, 11, 2]]
    assert own["labels"].tolist() == [[-100, -100, -100, 11, 2]]
    assert own["length"].tolist() == [5]
    assert "row" not in own


def test_accumulating_changes_nothing(tmp_path: Any) -> None:
    at_once, trainer, _, _ = run(tmp_path)
    in_parts, other, _, recorder = run(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert_same_weights(at_once, in_parts, tolerance=1e-9)
    assert trainer.last_parts == pytest.approx(other.last_parts)
    assert trainer.last_parts.keys() == {"kl", "ce", "own_kl"}
    assert recorder.of(OwnAnswers)


def test_the_student_writes_no_token_that_its_teacher_lacks(tmp_path: Any) -> None:
    student = pico("llama", vocab_size=VOCABULARY + 16, tie_word_embeddings=False, dtype=torch.float64)
    with torch.no_grad():
        student.get_output_embeddings().weight[VOCABULARY:] *= 3  # likelier than the others together
    both = {"processing_class": tokenizer(), "teacher_tokenizer": tokenizer()}
    _, trainer, seen, _ = run(tmp_path, tokenizers=both, student=student)
    assert trainer.last_parts["own_kl"] > 0
    assert max(int(batch["input_ids"].max()) for _, batches, _ in seen.steps for batch in batches) < VOCABULARY


@pytest.mark.parametrize("signal", ["hidden", "gradient"])
def test_the_rows_of_the_data_are_read_from_the_cache(signal: str, tmp_path: Any) -> None:
    online, asked, _, _ = run(tmp_path)
    read, from_disk, _, _ = run(tmp_path, cache=cached(signal, 7, tmp_path))
    assert_same_weights(online, read, tolerance=1e-6)
    assert losses(asked) == pytest.approx(losses(from_disk), rel=1e-6)


def test_each_own_answer_hears_the_teacher_of_its_prompt(tmp_path: Any) -> None:
    """All rows are those of the second of two teachers, so the first is never heard."""
    alone, _, _, _ = run(tmp_path, teacher_model=teacher_of(8))
    routed, _, _, _ = run(tmp_path, teacher_model=[teacher_of(7), teacher_of(8)], teacher_rows=[1] * 8)
    mixed, _, _, _ = run(tmp_path, teacher_model=[teacher_of(8), teacher_of(8)])
    assert_same_weights(alone, routed, tolerance=1e-9)
    assert_same_weights(alone, mixed, tolerance=1e-6)


def test_no_share_is_a_run_without(tmp_path: Any) -> None:
    without, trainer, _, _ = run(tmp_path, None)
    none, other, _, recorder = run(tmp_path, {**SPEC, "share": 0})
    assert_same_weights(without, none, tolerance=0)
    assert losses(trainer) == losses(other)
    assert recorder.events == []


def test_all_rows_may_be_own(tmp_path: Any) -> None:
    _, trainer, seen, recorder = run(tmp_path, {**SPEC, "share": 1})
    assert [len(batches[0][OWN]) for _, batches, _ in seen.steps[2:]] == [4, 4]
    assert [event.answers for event in recorder.of(OwnAnswers)] == [5, 3]  # none is written that is not needed
    assert trainer.last_parts.keys() == {"own_kl"}
    assert "a fifth" in recorder.of(Notice)[0].text


class TestWhenItStops:
    def practised(self, answers: list[list[Answer]], **spec: Any) -> tuple[Practice, Recorder]:
        """Practice over batches of four rows, whose refreshes give these answers."""
        recorder, given = Recorder(), iter(answers)
        asks = Prompts(Rows(ROWS), tokens=6, context=128)
        practice = Practice(OnPolicySpec(**{**SPEC, "share": 1, "refresh": 4, **spec}), asks, first_step=0, seed=1, reporter=recorder)
        batch = {"input_ids": torch.ones(4, 3, dtype=torch.long), "labels": torch.ones(4, 3, dtype=torch.long)}
        for step in range(len(answers)):
            made = practice.step([batch], step, len(answers), lambda prompts, seed: next(given))
            assert (OWN in made[0]) == (not practice.stopped)
        return practice, recorder

    def test_half_of_the_answers_may_be_cut_off_and_no_more(self) -> None:
        good, cut = Answer([9, 8, 2], True), Answer([9, 8, 7, 6, 5, 4], False)
        assert not self.practised([[good, good, cut, cut]])[0].stopped
        practice, recorder = self.practised([[good, good, cut, cut], [good, cut, cut, cut], [good] * 4])
        assert practice.stopped
        assert [event.cut for event in recorder.of(OwnAnswers)] == [0.5, 0.75]  # and nothing is written after
        (said,) = recorder.of(Notice)
        assert said.level == "warning"
        assert "3 of 4 answers did not end within 6 tokens" in said.text
        assert "distillation.on_policy.tokens=12" in said.text

    def test_the_few_answers_at_the_end_of_a_training_say_nothing(self) -> None:
        good, cut = Answer([9, 8, 2], True), Answer([9, 8, 7, 6, 5, 4], False)
        practice, recorder = self.practised([[good] * 5, [cut] * 3], refresh=5)
        assert [event.answers for event in recorder.of(OwnAnswers)] == [5, 3]
        assert not practice.stopped

    def test_answers_that_repeat_themselves_twice_as_much(self) -> None:
        varied, again = Answer([*range(10, 40), 2], True), Answer([*[5, 6, 7, 8] * 4, 2], True)
        some = Answer([*range(10, 30), *range(10, 15), 2], True)
        assert not self.practised([[varied] * 4, [some] * 4])[0].stopped
        practice, recorder = self.practised([[varied] * 4, [again] * 4])
        assert practice.stopped
        assert "repeat themselves: 64 % of their 4-grams, 0 % at first" in recorder.of(Notice)[0].text

    def test_repetition_is_the_share_of_grams_seen_before(self) -> None:
        assert repetition([Answer([1, 2, 3], True)]) == 0
        assert repetition([Answer([1, 2, 3, 4, 1, 2, 3, 4], True), Answer([1, 2, 3, 4], True)]) == pytest.approx(1 / 6)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"num_train_epochs": 1}, "after the first epoch of 2 steps, and there are 2 in all"),
            ({"on_policy": {"share": 2}}, "share"),
            ({"on_policy": {"tokens": 125}}, "exceeds the model's context of 128"),
        ],
    )
    def test_settings(self, changes: dict[str, Any], said: str, tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match=said):
            run(tmp_path, **changes)

    def test_a_learning_rate_that_cannot_be_lowered(self) -> None:
        scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 1)
        with pytest.raises(RecipeError, match="after 2 steps, which StepLR does not allow"):
            slow_down(scheduler, 2)

    def test_a_teacher_that_is_only_a_cache(self, tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match="there is only its cache"):
            run(tmp_path, teacher_model=None, cache=cached("hidden", 7, tmp_path))

    def test_rows_without_prompts(self, tmp_path: Any) -> None:
        rows = Rows([{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in ROWS])
        for given, more in ((rows, {}), (["a cat", "a dog"], {"processing_class": tokenizer()})):
            with pytest.raises(RecipeError, match="no row has one: they are plain text"):
                DistillationTrainer(
                    student_of(), arguments(tmp_path), teacher_model=teacher_of(7), train_dataset=given, on_policy=SPEC, **more
                )

    def test_batches_that_somebody_else_makes(self, tmp_path: Any) -> None:
        with pytest.raises(RecipeError, match="data_collator"):
            DistillationTrainer(
                student_of(),
                arguments(tmp_path),
                teacher_model=teacher_of(7),
                train_dataset=Rows(ROWS),
                on_policy=SPEC,
                data_collator=lambda rows: rows,
            )
