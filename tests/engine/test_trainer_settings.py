"""What a script of somebody passes to a DistillationTrainer: it works, or is refused in one sentence, and never silently does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import test_trainer_rows
import torch
import transformers
from letters import tokenizer
from pico import assert_same_weights, pico
from test_trainer_rows import ROWS, taught, trainer_on

from finetune.data.tokens.collator import Collator
from finetune.errors import RecipeError
from finetune.events import Notice
from finetune.training.loss.settings import loss_of


@pytest.mark.parametrize("cached", [False, True])
def test_a_mask_of_what_is_learned_is_as_good_as_labels(cached: bool, tmp_path: Path) -> None:
    masked = [{"input_ids": row["input_ids"], "completion_mask": [int(label != -100) for label in row["labels"]]} for row in ROWS]
    rows: Any = masked if cached else datasets.Dataset.from_list(masked)
    tolerance = 1e-6 if cached else 1e-12
    assert_same_weights(taught(rows, tmp_path / "a", cached=cached), taught(ROWS, tmp_path / "b"), tolerance=tolerance)


def test_a_collator_that_cannot_read_such_a_mask_is_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    masked = [{"input_ids": [5, 6, 7], "assistant_masks": [0, 0, 1]}] * 4
    trainer_on(masked, tmp_path, data_collator=transformers.DataCollatorWithPadding(tokenizer())).train()
    said = "The data_collator gets assistant_masks only with remove_unused_columns=False: unless it makes labels, every token is learned."
    assert [warning.filename for warning in recwarn if str(warning.message) == said] == [test_trainer_rows.__file__], "where it was made"


def test_a_collator_that_drops_the_number_of_a_row_is_refused_beside_a_cache(tmp_path: Path) -> None:
    def stack(rows: list[Any]) -> dict[str, torch.Tensor]:
        return Collator(0)([{name: row[name] for name in ("input_ids", "labels")} for row in rows])

    with pytest.raises(RecipeError, match="the data_collator leaves the column out"):
        trainer_on(ROWS, tmp_path, cached=True, data_collator=stack).train()


@pytest.mark.parametrize(
    "more",
    [{"teacher_rows": [0] * 8}, {"on_policy": {"share": 0.5}}, {"features": {"last": 0.1}, "teacher_model": pico("llama", hidden_size=32)}],
    ids=lambda more: next(iter(more)),
)
def test_what_looks_rows_up_refuses_a_stream(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must look training rows up by number, and these are a stream"):
        trainer_on(datasets.Dataset.from_list(ROWS).to_iterable_dataset(), tmp_path, args={"max_steps": 4}, **more)


@pytest.mark.parametrize("more", [{"teacher_model": "self"}, {"features": {"last": 0.1}}], ids=lambda more: next(iter(more)))
def test_what_belongs_to_one_model_is_refused_where_each_training_makes_another(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="of one model, and model_init makes a new one for each training"):
        trainer_on(ROWS, tmp_path, model=None, model_init=lambda: pico("llama"), **more)


def test_a_search_for_settings_leaves_the_divergence_alone_and_lowers_the_loss(tmp_path: Path) -> None:
    trainer = trainer_on(ROWS, tmp_path)
    trainer.objective = None  # as the search of transformers does before each trial
    trainer.train()
    assert trainer.last_parts["kl"] > 0
    assert loss_of({"eval_loss": 2.0, "eval_ce": 3.0, "eval_kl": 0.5, "eval_runtime": 9.0}) == 2.0


def test_a_student_that_stops_practising_is_told_as_a_warning(tmp_path: Path) -> None:
    practice = trainer_on(ROWS, tmp_path, on_policy={"share": 0.5}).practice
    assert practice is not None
    practice.reporter.report(Notice("Half of the rows are answers of the student."))  # what is no warning is not one here
    with pytest.warns(UserWarning, match="The student stopped practising before step 5: 18 of 20 answers did not end"):
        practice._judge(5, 20, cut=0.9, repeated=0.0)


def test_weights_in_which_small_updates_are_lost_are_told_and_an_adapter_has_others(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    adapter = peft.LoraConfig(target_modules=["q_proj"])
    trainer_on(ROWS, tmp_path, model=peft.get_peft_model(pico("llama", dtype=torch.bfloat16), adapter))
    trainer_on(ROWS, tmp_path)
    assert not [warning for warning in recwarn if "16 bits" in str(warning.message)]
    with pytest.warns(UserWarning, match="The weights that train are in bfloat16, where small updates are lost"):
        trainer_on(ROWS, tmp_path, model=pico("llama", dtype=torch.bfloat16))
