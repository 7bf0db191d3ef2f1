"""A DistillationTrainer used as people use a Trainer: rows in every form that they have, and what cannot be trained in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas
import peft
import pyarrow
import pytest
import torch
import transformers
from letters import tokenizer
from pico import arguments, assert_same_weights, pico, pico_rows
from test_distillation_trainer import textbook
from torch.utils.data import IterableDataset, TensorDataset

from finetune.distillation.caches.builder import build_cache
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import DatasetError, ModelError, RecipeError
from finetune.models.load import dequantised, is_packed
from finetune.training.head import fixed_positions, nothing_packed
from finetune.training.trainer import SupervisedTrainer

ROWS = pico_rows(8)
WIDE = 24
TEXTS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "dd"}]


def trainer_on(rows: Any, folder: Any, *, args: Any = None, cached: bool = False, **more: Any) -> DistillationTrainer:
    teacher = pico("llama", seed=7, dtype=torch.float64)
    if cached:
        more["cache"], teacher = build_cache("hidden", teacher, rows, folder / "cache"), None
    more = {"model": pico("llama", dtype=torch.float64), "teacher_model": teacher, **more}
    return DistillationTrainer(args=arguments(folder, **(args or {})), train_dataset=rows, **more)


def taught(rows: Any, folder: Any, **more: Any) -> Any:
    trainer = trainer_on(rows, folder, **more)
    trainer.train()
    return trainer.model


def padded(rows: list[dict[str, Any]], side: str, labels: bool) -> list[dict[str, Any]]:
    """As a tokenizer with padding="max_length" gives them, with the labels that many add: a copy of the tokens."""
    made = []
    for row in rows:
        ids, fill = row["input_ids"], WIDE - len(row["input_ids"])
        before, after = (fill, 0) if side == "left" else (0, fill)
        wide = {
            "input_ids": [0] * before + ids + [0] * after,
            "attention_mask": [0] * before + [1] * len(ids) + [0] * after,
        }
        made.append(wide | ({"labels": wide["input_ids"]} if labels else {}))
    return made


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_a_mask_hides_is_not_learned(side: str, labels: bool, cached: bool, tmp_path: Path) -> None:
    whole = [{"input_ids": row["input_ids"]} for row in ROWS]
    rows: Any = padded(ROWS, side, labels)
    if not cached:
        rows = datasets.Dataset.from_list(rows).with_format("torch")
    ours, theirs = taught(rows, tmp_path / "a", cached=cached), taught(whole, tmp_path / "b")
    assert_same_weights(ours, theirs, tolerance=1e-6 if cached else 1e-12)


@pytest.mark.parametrize("cached", [False, True])
def test_texts_packed_into_a_row_do_not_see_each_other(cached: bool, tmp_path: Path) -> None:
    packed = []
    for one, other in zip(ROWS[::2], ROWS[1::2], strict=True):
        lengths = [len(row["input_ids"]) for row in (one, other)]
        packed.append(
            {
                "input_ids": one["input_ids"] + other["input_ids"],
                "labels": [*one["labels"], -100, *other["labels"][1:]],
                "position_ids": [*range(lengths[0]), *range(lengths[1])],
            }
        )
    ours = taught(packed, tmp_path / "a", args={"per_device_train_batch_size": 2}, cached=cached)
    assert_same_weights(ours, taught(ROWS, tmp_path / "b"), tolerance=1e-6 if cached else 1e-12)


class Stream(IterableDataset[Any]):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


def stacked(rows: list[Any]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.stack([row[0] for row in rows])}


def test_columns_by_name_are_rows(tmp_path: Path) -> None:
    plain = taught(ROWS, tmp_path)
    columns = {name: [row[name] for row in ROWS] for name in ("input_ids", "labels")}
    for given in (columns, transformers.BatchEncoding(columns), pandas.DataFrame(columns), pyarrow.Table.from_pydict(columns)):
        assert_same_weights(taught(given, tmp_path), plain, tolerance=1e-12)
    tables = [pandas.DataFrame(TEXTS * 2), {name: [row[name] for row in TEXTS * 2] for name in ("prompt", "completion")}]
    texts = taught(TEXTS * 2, tmp_path, processing_class=tokenizer(chat=True))
    for given in tables:
        assert_same_weights(taught(given, tmp_path, processing_class=tokenizer(chat=True)), texts, tolerance=1e-12)


def test_streams_and_rows_that_only_their_collator_knows(tmp_path: Path) -> None:
    assert_same_weights(taught(Stream(ROWS), tmp_path, args={"max_steps": 2}), taught(ROWS, tmp_path), tolerance=1e-12)
    ids = torch.randint(3, 100, (8, 12), generator=torch.Generator().manual_seed(0))
    plain = taught([{"input_ids": row} for row in ids.tolist()], tmp_path)
    assert_same_weights(taught(TensorDataset(ids), tmp_path, data_collator=stacked), plain, tolerance=1e-12)
    batches = [[(row,) for row in ids[:4]], [(row,) for row in ids[4:]]]
    one_by_one = {"args": {"per_device_train_batch_size": 1}, "data_collator": lambda rows: stacked(rows[0])}
    assert_same_weights(taught(batches, tmp_path, **one_by_one), plain, tolerance=1e-12)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (torch.ones(8, 5, dtype=torch.long), "A row is of type Tensor."),
        (TensorDataset(torch.ones(8, 5, dtype=torch.long)), "A row is of type tuple."),
        (Stream([{"text": "a"}] * 8), "A row has no input_ids."),
        (
            datasets.Dataset.from_list(TEXTS).to_iterable_dataset(),
            "The rows are a stream of text, which would have to be read to its end first.",
        ),
        (datasets.Dataset.from_list([]), "The data contains no rows."),
        ((row for row in ROWS), "The rows are a generator, which can be read only once."),
        ([{"input_ids": [5, 6, 7], "labels": [5, 6]}], "A row has 3 input_ids, 2 labels."),
        ([{"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]]}], "The input_ids of a row are not a flat list."),
        ([{"input_ids": torch.tensor([[5, 6, 7]])}], "The input_ids of a row are not a flat list."),
        ([{"input_ids": [5, 131, 7]}], "Token 131 of the input_ids is not in the model's vocabulary of 131 tokens."),
        ([{"input_ids": [5, 6, 7], "labels": [5, 6, 900]}], "Token 900 of the labels is not in the model's vocabulary of 131 tokens."),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), "There are several datasets: train."),
    ],
)
def test_rows_that_are_none_are_refused_in_one_sentence(rows: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        trainer_on(rows, tmp_path, args={"max_steps": 1}).train()
    assert str(refused.value) == sentence


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_rows_longer_than_there_are_positions_are_refused(name: str, tmp_path: Path) -> None:
    pair = {"model": pico(name, dtype=torch.float64), "teacher_model": pico(name, seed=7, dtype=torch.float64)}
    assert trainer_on([{"input_ids": [5] * 128}], tmp_path, **pair).train().global_step == 1
    with pytest.raises(DatasetError, match="A row has 129 tokens, and the model reads at most 128"):
        trainer_on([{"input_ids": [5] * 129}], tmp_path, **pair).train()
    assert trainer_on([{"input_ids": [5] * 129}], tmp_path).train().global_step == 1, "rotary positions have no end"
    with pytest.raises(DatasetError, match="A row has 129 tokens, and the teacher reads at most 128"):
        trainer_on([{"input_ids": [5] * 129}], tmp_path, teacher_model=pair["teacher_model"]).train()


SIZES = {"vocab_size": 9, "pad_token_id": 0}
OF_GPTJ = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 4, "rotary_dim": 4, **SIZES}
OF_ROBERTA = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "is_decoder": True, **SIZES}


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (transformers.GPTJConfig(**OF_GPTJ), 16),
        (transformers.CodeGenConfig(**OF_GPTJ), 16),
        (transformers.CTRLConfig(n_positions=16, n_embd=16, dff=16, n_layer=1, n_head=2, **SIZES), 16),
        (transformers.MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=16, **SIZES), 16),
        (transformers.RobertaConfig(**OF_ROBERTA, max_position_embeddings=17), 16),
    ],
    ids=lambda of: type(of).__name__,
)
def test_a_table_of_positions_has_an_end_where_nobody_has_learned_it(config: Any, most: int) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert fixed_positions(model) == most
    model(input_ids=torch.ones(1, most, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.ones(1, most + 1, dtype=torch.long))


def test_tokens_beyond_a_model_that_the_trainer_makes_are_refused_too(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 131, 7]}]
    with pytest.raises(DatasetError, match="Token 131 of the input_ids"):
        trainer_on(rows, tmp_path, model=None, model_init=lambda: pico("llama", dtype=torch.float64)).train()


def test_the_positions_of_pictures_are_no_limit_of_text() -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sees = transformers.CLIPVisionConfig(**small, image_size=28, patch_size=14)
    config = transformers.LlavaConfig(
        vision_config=sees, text_config=transformers.LlamaConfig(**small, vocab_size=9, max_position_embeddings=5)
    )
    model = transformers.LlavaForConditionalGeneration(config)
    assert model.model.vision_tower.get_submodule("embeddings.position_embedding").num_embeddings == 5
    assert fixed_positions(model) is None


def t5() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": t5()}, "T5ForConditionalGeneration has an encoder and a decoder; it is not a causal language model."),
        ({"teacher_model": t5()}, "T5ForConditionalGeneration has an encoder and a decoder; it is not a causal language model."),
        ({"model": pico("llama").model}, "LlamaModel has no language-model head."),
        ({"teacher_model": torch.nn.Linear(2, 2)}, "Linear has no language-model head."),
        ({"model": pico("llama", dtype=torch.float64).requires_grad_(False)}, "All weights of the model are frozen"),
    ],
)
def test_models_that_cannot_be_trained_are_refused_in_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=sentence):
        taught(ROWS, tmp_path, **changes)
    if "model" in changes and not sentence.startswith("All"):
        with pytest.raises(ModelError, match=sentence):
            SupervisedTrainer(changes["model"], arguments(tmp_path), train_dataset=ROWS)


def test_a_teacher_that_has_weights_of_the_student_is_refused(tmp_path: Path) -> None:
    base, student = pico("llama"), pico("llama", seed=1)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))  # puts its layers into the base
    teacher = pico("llama", seed=7)
    student.model.layers = torch.nn.ModuleList(teacher.model.layers[:2])
    for pair in ({"model": adapted, "teacher_model": base}, {"model": student, "teacher_model": teacher}):
        with pytest.raises(RecipeError, match="Teacher and student share weights"):
            trainer_on(ROWS, tmp_path, **pair)
    assert all(parameter.requires_grad for parameter in student.parameters()), "nothing was frozen"
    student.model.layers.requires_grad_(False)  # what never changes can be shared
    assert trainer_on(ROWS, tmp_path, model=student, teacher_model=teacher).train().global_step == 2


def test_settings_of_another_trainer_are_named(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    others = transformers.Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, report_to=[], generation_max_length=9, learning_rate=1e-3)
    DistillationTrainer(pico("llama"), others, teacher_model=pico("llama", seed=7), train_dataset=ROWS)
    DistillationTrainer(pico("llama"), arguments(tmp_path), teacher_model=pico("llama", seed=7), train_dataset=ROWS)
    said = [warning for warning in recwarn if "no effect" in str(warning.message)]
    assert [str(warning.message) for warning in said] == ["Seq2SeqTrainingArguments sets what has no effect here: generation_max_length=9."]
    assert said[0].filename == __file__


def in_4_bits(folder: Path) -> Any:
    if not folder.exists():
        size = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 4}
        pico("qwen3", seed=7, **size).save_pretrained(folder)
    quantised = transformers.BitsAndBytesConfig(load_in_4bit=True)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantised, dtype=torch.float32, device_map="cpu")


def adapted(model: Any) -> Any:
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))


def test_the_adapter_of_a_student_in_4_bits_learns_as_beside_the_same_values_in_full(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    trained = []
    for model in (in_4_bits(tmp_path / "base"), dequantised(in_4_bits(tmp_path / "base"), torch.float32)):
        student = taught(ROWS, tmp_path, model=adapted(model), teacher_model=pico("qwen3"))
        trained.append({name: parameter for name, parameter in student.named_parameters() if "lora_" in name})
    begun = dict(adapted(in_4_bits(tmp_path / "base")).named_parameters())
    for name, after in trained[0].items():
        torch.testing.assert_close(after, trained[1][name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(after, begun[name])


def test_a_model_in_4_bits_that_has_answered_is_trained_or_refused(tmp_path: Path) -> None:
    """bitsandbytes packs its layers then, where the CPU has the instructions, and they have no gradients any more."""
    pytest.importorskip("bitsandbytes")
    model = adapted(in_4_bits(tmp_path / "base")).eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
    if is_packed(model):
        with pytest.raises(ModelError, match="4-bit layers that have answered"):
            taught(ROWS, tmp_path, model=model, teacher_model=pico("qwen3"))
    else:
        taught(ROWS, tmp_path, model=model, teacher_model=pico("qwen3"))


def test_the_best_checkpoint_by_a_part_of_the_loss_is_that_with_the_lowest(tmp_path: Path) -> None:
    kept = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_ce"}
    more = {"eval_dataset": pico_rows(5, seed=3), "alpha": 1.0}
    with pytest.raises(RecipeError, match="The lower eval_ce is, the better, and greater_is_better is True"):
        trainer_on(ROWS, tmp_path, args=kept, **more)
    for name in ("eval_mine_kl", "approximate_kl"):
        with pytest.raises(RecipeError, match=f"The lower {name} is, the better"):
            trainer_on(ROWS, tmp_path, args={**kept, "metric_for_best_model": name}, **more | {"eval_dataset": {"mine": ROWS}})
    trainer = trainer_on(ROWS, tmp_path, args={**kept, "greater_is_better": False, "num_train_epochs": 3, "learning_rate": 0.5}, **more)
    trainer.train()
    told = [entry["eval_ce"] for entry in trainer.state.log_history if "eval_ce" in entry]
    assert len(set(told)) == 3
    assert trainer.state.best_metric == min(told)
    assert trainer.evaluate()["eval_ce"] == pytest.approx(min(told), rel=1e-9)


def test_what_would_have_to_see_logits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="preprocess_logits_for_metrics would never be called"):
        trainer_on(ROWS, tmp_path, preprocess_logits_for_metrics=lambda logits, labels: logits)


def test_the_loss_of_an_evaluation_is_the_mean_over_tokens_however_rows_lie_in_batches(tmp_path: Path) -> None:
    rows = [{"input_ids": [4, 5, 6], "labels": [-100] * 3}, *pico_rows(7, seed=9)]
    for size in (2, 8):
        trainer = trainer_on(ROWS, tmp_path, args={"per_device_eval_batch_size": size}, alpha=0.3)
        told = trainer.evaluate(rows)
        expected = textbook(trainer.model, trainer.teachers[0].model, rows, 0.3, 2.0).item()
        assert told["eval_loss"] == pytest.approx(expected, rel=1e-9)
        assert told["eval_loss"] == pytest.approx(0.3 * told["eval_ce"] + 0.7 * 4 * told["eval_kl"], rel=1e-9)


def test_tokens_seen_without_padding_are_counted_without_padding(tmp_path: Path) -> None:
    trainer = trainer_on(padded(ROWS, "left", False), tmp_path, args={"include_num_input_tokens_seen": "non_padding"})
    trainer.train()
    assert trainer.state.num_input_tokens_seen == sum(len(row["input_ids"]) for row in ROWS)


def test_rows_of_text_can_be_given_to_evaluate_and_predict(tmp_path: Path) -> None:
    trainer = trainer_on(ROWS, tmp_path, processing_class=tokenizer(chat=True))
    told = trainer.evaluate(TEXTS)["eval_loss"]
    assert trainer_on(ROWS, tmp_path, processing_class=tokenizer(chat=True), eval_dataset=TEXTS).evaluate()["eval_loss"] == told
    assert trainer.predict(TEXTS).metrics["test_loss"] == told
    assert trainer.evaluate({"mine": TEXTS})["eval_mine_loss"] == told


def test_forward_passes_of_several_threads_leave_transformers_as_it_was() -> None:
    """Each begins while the other runs, and the first to begin is the first to end."""

    def looks() -> Any:
        return transformers.masking_utils.find_packed_sequence_indices

    before, one, other = looks(), nothing_packed(), nothing_packed()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert looks() is not before, "the other still runs"
    other.__exit__(None, None, None)
    assert looks() is before


def test_a_teacher_smaller_than_its_student_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    deep, shallow = (pico("llama", num_hidden_layers=layers) for layers in (3, 1))
    adapted = peft.get_peft_model(pico("llama", num_hidden_layers=1), peft.LoraConfig(r=256, target_modules=["q_proj"]))
    for student, teacher in ((deep, shallow), (pico("llama", num_hidden_layers=1), deep), (adapted, shallow)):
        DistillationTrainer(student, arguments(tmp_path), teacher_model=teacher, train_dataset=ROWS)
    (said,) = [str(warning.message) for warning in recwarn if "smaller than" in str(warning.message)]
    assert said.startswith(
        f"The teacher ({shallow.num_parameters():,} parameters) is smaller than the student ({deep.num_parameters():,})."
    )
