"""SupervisedTrainer against ordinary logits, for every pico architecture: loss, gradients, padding, accumulation, wrappers."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import peft
import pytest
import torch
import torch.nn.functional as F
from letters import tokenizer
from pico import NAMES, VOCABULARY, Rows, arguments, assert_same_weights, losses, model_gradients, pico, pico_rows
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, Trainer
from zoo import build

from finetune.data.tokens.collator import Collator
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import ModelError, RecipeError, TrainingError
from finetune.training.head import backbone_of, check_head, head_of, needs_mask
from finetune.training.sub_batches import pieces
from finetune.training.trainer import SupervisedTrainer

CLOSE = 1e-7  # several architectures take their norms in float32, whatever the model's dtype


def trainer_of(model: Any, folder: Any, rows: list[dict] | None = None, **changes: Any) -> SupervisedTrainer:
    return SupervisedTrainer(model=model, args=arguments(folder, **changes), train_dataset=Rows(rows or pico_rows(8)))


def batch_of(rows: list[dict], *, mask: bool = False, extra: int = 0) -> dict[str, torch.Tensor]:
    batch = Collator(0, mask=mask)(rows)
    fill = {"input_ids": 5, "labels": -100, "attention_mask": 0}
    padded = {name: F.pad(tensor, (0, extra), value=fill[name]) for name, tensor in batch.items()}
    return {**padded, "length": torch.tensor([len(row["input_ids"]) for row in rows])}


def textbook(model: Any, rows: list[dict]) -> torch.Tensor:
    """Mean cross-entropy with each row alone: nothing is padded, nothing masked."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                total, count = total - logits[position].log_softmax(-1)[label], count + 1
    return total / count


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_full_logits_row_by_row(name: str, tmp_path) -> None:
    model = pico(name, dtype=torch.float64)
    trainer = trainer_of(model, tmp_path)
    rows = pico_rows(5)
    ours = trainer.compute_loss(model, batch_of(rows))
    theirs = textbook(model, rows)
    torch.testing.assert_close(ours, theirs, rtol=CLOSE, atol=0)
    mine, reference = model_gradients(model, ours), model_gradients(model, theirs)
    assert mine.keys() == reference.keys()
    for parameter, gradient in reference.items():
        torch.testing.assert_close(mine[parameter], gradient, rtol=1e-5, atol=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_more_padding_and_another_order_of_rows_change_nothing(name: str, tmp_path) -> None:
    model = pico(name, dtype=torch.float64)
    trainer = trainer_of(model, tmp_path)
    rows = pico_rows(5)
    reference = trainer.compute_loss(model, batch_of(rows))
    expected = model_gradients(model, reference)
    for batch in (batch_of(rows, extra=9), batch_of(rows[::-1]), batch_of(rows, mask=True, extra=2)):
        loss = trainer.compute_loss(model, batch)
        torch.testing.assert_close(loss, reference, rtol=CLOSE, atol=0)
        for parameter, gradient in model_gradients(model, loss).items():
            torch.testing.assert_close(gradient, expected[parameter], rtol=1e-5, atol=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_accumulation_splits_a_batch_without_changing_the_step(name: str, tmp_path) -> None:
    def after_one_step(batch: int, accumulation: int) -> Any:
        model = pico(name, dtype=torch.float64)
        trainer_of(model, tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation).train()
        return model

    whole = after_one_step(8, 1)
    for batch, accumulation in ((4, 2), (2, 4), (1, 8)):
        assert_same_weights(whole, after_one_step(batch, accumulation), tolerance=CLOSE)


def test_training_is_the_plain_trainers_training(tmp_path) -> None:
    rows = pico_rows(12)
    ours, theirs = pico("llama", dtype=torch.float64), pico("llama", dtype=torch.float64)
    mine = trainer_of(ours, tmp_path, rows, gradient_accumulation_steps=2, num_train_epochs=2)
    mine.train()
    settings = arguments(tmp_path, gradient_accumulation_steps=2, num_train_epochs=2)
    plain = Trainer(model=theirs, args=settings, train_dataset=Rows(rows), data_collator=Collator(0, mask=True))
    plain.train()
    assert losses(mine) == pytest.approx(losses(plain), rel=1e-6)
    assert mine.state.total_flos == plain.state.total_flos > 0
    assert_same_weights(ours, theirs, tolerance=1e-6)


def left(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Padded on the left, as a tokenizer does that is set up for generation."""
    batch = Collator(0, mask=True)(rows)
    shifts = [batch["input_ids"].shape[1] - len(row["input_ids"]) for row in rows]
    turned = {name: [value.roll(shift) for value, shift in zip(tensor, shifts, strict=True)] for name, tensor in batch.items()}
    return {name: torch.stack(values) for name, values in turned.items()}


def test_rows_padded_to_the_left_by_a_collator_of_ones_own_keep_their_ends(tmp_path) -> None:
    ours, theirs = pico("gpt_neox", dtype=torch.float64), pico("gpt_neox", dtype=torch.float64)
    settings = arguments(tmp_path)
    mine = SupervisedTrainer(model=ours, args=settings, train_dataset=Rows(pico_rows(8)), data_collator=left)
    mine.train()
    Trainer(model=theirs, args=settings, train_dataset=Rows(pico_rows(8)), data_collator=left).train()
    assert mine.real_tokens == sum(len(row["input_ids"]) for row in pico_rows(8))
    assert_same_weights(ours, theirs, tolerance=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "xglm"])
def test_padding_on_the_left_moves_no_token_to_another_position(name: str, tmp_path) -> None:
    padded, plain = (build(name) for _ in range(2))
    SupervisedTrainer(model=padded, args=arguments(tmp_path), train_dataset=Rows(pico_rows(8)), data_collator=left).train()
    trainer_of(plain, tmp_path, pico_rows(8)).train()
    assert_same_weights(padded, plain, tolerance=1e-5)


def test_checkpointing_changes_nothing(tmp_path) -> None:
    plain, other = pico("llama"), pico("llama")
    trainer_of(plain, tmp_path).train()
    trainer_of(other, tmp_path, activation_checkpointing=True).train()
    assert_same_weights(plain, other, tolerance=1e-5)


def test_bfloat16_autocast_reaches_the_backbone_and_stays_close(tmp_path) -> None:
    plain, mixed = trainer_of(pico("llama"), tmp_path), trainer_of(pico("llama"), tmp_path, bf16=True)
    plain.train()
    mixed.train()
    assert losses(mixed) != losses(plain)
    assert losses(mixed) == pytest.approx(losses(plain), rel=0.05)


def test_prompts_carry_no_loss_and_everything_else_does(tmp_path) -> None:
    model = pico("llama", dtype=torch.float64)
    trainer = trainer_of(model, tmp_path)
    row = {"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, 2]}
    log_probabilities = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    expected = -(log_probabilities[1, 7] + log_probabilities[2, 8] + log_probabilities[3, 2]) / 3
    torch.testing.assert_close(trainer.compute_loss(model, batch_of([row])), expected)


def test_tokens_are_counted_exactly_even_when_padding_looks_like_a_token(tmp_path) -> None:
    rows = [{"input_ids": [5, 0, 0], "labels": [-100, -100, -100]}, {"input_ids": [5, 6, 7, 0], "labels": [5, 6, 7, -100]}]
    trainer = trainer_of(pico("llama"), tmp_path, rows, per_device_train_batch_size=2, num_train_epochs=3)
    trainer.train()
    assert (trainer.real_tokens, trainer.supervised_tokens) == (3 * 7, 3 * 2)


def test_evaluation_gives_the_plain_trainers_loss(tmp_path) -> None:
    rows = pico_rows(8)
    settings = arguments(tmp_path, per_device_eval_batch_size=8)  # all at once: it takes the mean of the means of batches
    ours = SupervisedTrainer(model=pico("qwen2"), args=settings, eval_dataset=Rows(rows)).evaluate()
    theirs = Trainer(model=pico("qwen2"), args=settings, eval_dataset=Rows(rows), data_collator=Collator(0, mask=True)).evaluate()
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)


def test_arrow_datasets_with_other_columns_are_fine(tmp_path) -> None:
    rows = datasets.Dataset.from_list([{**row, "note": "x", "length": len(row["input_ids"])} for row in pico_rows(8)])
    settings = arguments(tmp_path, train_sampling_strategy="group_by_length", length_column_name="length")
    trainer = SupervisedTrainer(model=pico("llama"), args=settings, train_dataset=rows)
    trainer.train()
    assert trainer.real_tokens == sum(rows["length"])


def test_a_step_without_a_supervised_token_is_an_error(tmp_path) -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [7, -100, -100]}]
    with pytest.raises(TrainingError, match="Step 1 has no supervised token"):
        trainer_of(pico("llama"), tmp_path, rows).train()


@pytest.mark.parametrize("teacher", [None, 131], ids=["alone", "with a smaller teacher"])
def test_a_padding_token_that_no_embedding_was_made_for_changes_nothing(teacher: int | None, tmp_path) -> None:
    """As in old derivatives of Llama: [PAD] was added to the tokenizer, and the embeddings stayed as they were."""

    class Known:
        """As much of a tokenizer as is looked at: the student has no token that the teacher does not know."""

        pad_token_id = VOCABULARY

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "[PAD]": VOCABULARY}

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [0] * len(text)}

        def save_pretrained(self, folder: str) -> None: ...

    def trained(**given: Any) -> Any:
        model = pico("llama", vocab_size=VOCABULARY + 1 if teacher else VOCABULARY)
        kind: Any = SupervisedTrainer
        if teacher:
            kind = partial(DistillationTrainer, teacher_model=pico("llama", seed=1, vocab_size=teacher), teacher_tokenizer=Known())
        kind(model=model, args=arguments(tmp_path), train_dataset=Rows(pico_rows(8)), processing_class=Known(), **given).train()
        return model

    assert_same_weights(trained(), trained(data_collator=Collator(0)), tolerance=0)


def test_a_model_whose_tokenizer_has_a_padding_token_too_many_can_be_loaded_after_its_training(tmp_path) -> None:
    model, made = pico("llama"), tokenizer()
    made.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": [f"<{number}>" for number in range(VOCABULARY)]})
    made.pad_token = f"<{VOCABULARY - 1}>"
    assert made.pad_token_id >= VOCABULARY
    SupervisedTrainer(model=model, args=arguments(tmp_path), train_dataset=Rows(pico_rows(8)), processing_class=made).train()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.pad_token_id == again.generation_config.pad_token_id == pico("llama").config.pad_token_id
    assert_same_weights(again, model, tolerance=0)


@pytest.mark.parametrize(("dtype", "hint"), [(torch.float32, "damaged"), (torch.float16, "--dtype bfloat16 or float32")])
def test_numbers_that_are_not_finite_are_named_with_what_to_do(dtype: torch.dtype, hint: str) -> None:
    """Such as those of Gemma in float16: what differs then is not how the model attends."""
    model = pico("llama", dtype=dtype)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match=f"LlamaForCausalLM gives logits that are not finite in {str(dtype)[6:]}") as refused:
        check_head(model)
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize("make", [SupervisedTrainer, DistillationTrainer])
@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"label_smoothing_factor": 0.3}, {}),
        ({}, {"compute_loss_func": lambda *_, **__: torch.zeros(())}),
        ({}, {"compute_metrics": lambda _: {"accuracy": 1.0}}),
    ],
    ids=["label_smoothing_factor", "compute_loss_func", "compute_metrics"],
)
def test_settings_that_the_loss_would_not_follow_are_refused(make: Any, changes: dict, given: dict, tmp_path) -> None:
    more = {"teacher_model": pico("llama", seed=1)} if make is DistillationTrainer else {}
    with pytest.raises(RecipeError, match=next(iter({**changes, **given}))):
        make(model=pico("llama"), args=arguments(tmp_path, **changes), train_dataset=Rows(pico_rows(8)), **given, **more)


class TestAdapters:
    @pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
    def test_gradients_are_those_of_full_logits(self, settings: dict, tmp_path) -> None:
        model = peft.get_peft_model(pico("qwen3", dtype=torch.float64), peft.LoraConfig(**{"target_modules": ["q_proj"], **settings}))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        rows = pico_rows(5)
        trainer = trainer_of(model, tmp_path)
        ours = model_gradients(model, trainer.compute_loss(model, batch_of(rows)))
        theirs = model_gradients(model, textbook(model, rows))
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9)

    def test_a_frozen_head_stays_as_it_was(self, tmp_path) -> None:
        model = peft.get_peft_model(pico("llama"), peft.LoraConfig(target_modules=["q_proj"]))
        before = head_of(model).weight.clone()
        trainer_of(model, tmp_path).train()
        assert not head_of(model).trains
        torch.testing.assert_close(head_of(model).weight, before, rtol=0, atol=0)

    def test_learned_prompts_are_refused(self) -> None:
        model = peft.get_peft_model(pico("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
        with pytest.raises(ModelError, match="Prompt-learning"):
            head_of(model)


class TestTheReadingOfAModel:
    @pytest.mark.parametrize("name", NAMES)
    def test_backbone_and_head_make_the_models_logits(self, name: str) -> None:
        model = pico(name)
        check_head(model)
        assert not needs_mask(model)
        assert head_of(model).vocabulary == VOCABULARY

    def test_an_unknown_step_before_the_head_is_noticed(self) -> None:
        model = pico("granite")
        model.config.logits_scaling = 1.0  # as if the config did not say that the logits are divided
        original = model.forward

        def scaled(**inputs: Any) -> Any:
            outputs = original(**inputs)
            outputs.logits = outputs.logits / 4
            return outputs

        model.forward = scaled
        with pytest.raises(ModelError, match="not its last hidden state times its head"):
            check_head(model)

    def test_an_encoder_is_refused_as_one(self) -> None:
        torch.manual_seed(0)
        shape = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
        with pytest.raises(ModelError, match="BertLMHeadModel cannot be used: it sees later tokens"):
            check_head(BertLMHeadModel(BertConfig(**shape)).eval())
        with pytest.raises(ModelError, match="not its last hidden state times its head"):
            check_head(BertLMHeadModel(BertConfig(**shape, is_decoder=True)).eval())

    def test_a_model_that_looks_ahead_is_refused(self) -> None:
        """PaliGemma does: such a model would learn to repeat what it is to predict."""
        model = pico("llama", attn_implementation="eager")
        backbone_of(model).layers[1].self_attn.register_forward_pre_hook(_look_ahead, with_kwargs=True)
        with pytest.raises(ModelError, match="LlamaForCausalLM cannot be used: it sees later tokens"):
            check_head(model)

    def test_a_model_is_compared_with_itself_in_batches_of_one_size(self) -> None:
        """With another number of rows, rounding sends tokens of a 16-bit mixture to other experts, and the logits are far apart."""
        model = pico("llama")
        backbone_of(model).layers[1].register_forward_pre_hook(lambda _, args: (args[0] * len(args[0]), *args[1:]))
        check_head(model)

    def test_a_model_that_minds_its_padding_needs_a_mask_and_gets_it(self, tmp_path) -> None:
        model = pico("llama", dtype=torch.float64, attn_implementation="eager")
        for layer in backbone_of(model).layers:
            layer.self_attn.register_forward_pre_hook(_count_tokens, with_kwargs=True)
        assert needs_mask(model)
        trainer = trainer_of(model, tmp_path)
        rows = pico_rows(5)
        torch.testing.assert_close(trainer.compute_loss(model, batch_of(rows)), trainer.compute_loss(model, batch_of(rows, extra=6)))


def _look_ahead(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Makes an attention layer bidirectional."""
    mask = kwargs["attention_mask"]
    return args, {**kwargs, "attention_mask": mask[:, :, -1:, :].expand_as(mask)}


def _count_tokens(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Lets an attention layer depend on how many tokens a row has, but for padding, which a mask hides from its last place."""
    states, mask = kwargs["hidden_states"], kwargs["attention_mask"]
    tokens = torch.full((len(states),), states.shape[1]) if mask is None else (mask[:, 0, -1] == 0).sum(-1)
    return args, {**kwargs, "hidden_states": states * (1 + tokens / 8)[:, None, None].to(states)}


class TestMixtures:
    def test_padding_stays_out_of_the_load_balancing_loss(self, tmp_path) -> None:
        model = pico("mixtral", dtype=torch.float64, output_router_logits=True, router_aux_loss_coef=0.5)
        trainer = trainer_of(model, tmp_path)
        rows = pico_rows(5)
        batch = batch_of(rows, mask=True)
        del batch["length"]
        plain = model(**batch, output_router_logits=True)
        ours = trainer.compute_loss(model, batch_of(rows))
        torch.testing.assert_close(ours, plain.loss.double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(trainer.compute_loss(model, batch_of(rows, extra=11)), ours)
        assert float(plain.aux_loss.detach()) > 0.1


def test_pieces_come_in_few_widths_hold_every_token_and_stay_within_the_models_context() -> None:
    lengths = [35, 5, 20, 33]
    batch = {
        "input_ids": torch.arange(1, 141).view(4, 35),
        "labels": torch.full((4, 35), 7),
        "length": torch.tensor(lengths),
    }
    cut = list(pieces(batch, lengths, budget=40, widest=35))
    assert [part["input_ids"].shape for part in cut] == [(1, 35), (1, 35), (1, 32), (1, 32)]
    wide = list(pieces(batch, lengths, budget=128, widest=512))
    assert [part["input_ids"].shape for part in wide] == [(2, 64), (2, 32)]
    for part in wide:
        for ids, labels, length in zip(part["input_ids"], part["labels"], part["length"].tolist(), strict=True):
            row = lengths.index(length)
            assert torch.equal(ids[:length], batch["input_ids"][row, :length])
            assert (labels[:length] == 7).all()
            assert (labels[35:] == -100).all()
