"""A model that is its own teacher: what it was before the run, with no second copy of it."""

from __future__ import annotations

import json
from typing import Any

import peft
import pytest
import torch
from pico import Rows, apart, arguments, model_gradients, pico, pico_rows, weights
from test_distillation_trainer import CLOSE, batch_of, textbook
from workshop import Workshop

from finetune import Recipe
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import RecipeError
from finetune.methods.lora_kernel import speed_up


def adapted(name: str = "llama", *, moved: bool = False, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A pico model with an adapter, which has learned something already if `moved`."""
    torch.manual_seed(5)
    targets = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn"]}[name]
    model = peft.get_peft_model(pico(name, dtype=dtype), peft.LoraConfig(target_modules=targets, lora_dropout=0.3, **changes))
    speed_up(model)
    if moved:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3)
    return model


class TestTheTrainer:
    @pytest.mark.parametrize("changes", [{}, {"modules_to_save": ["lm_head"]}])
    def test_loss_and_gradients_are_those_beside_a_second_copy(self, changes: dict, tmp_path) -> None:
        student, rows = adapted(moved=True, **changes), pico_rows(4)
        trainer = DistillationTrainer(student, arguments(tmp_path), teacher_model="self", alpha=0.3, train_dataset=Rows(rows))
        student.eval()
        ours = trainer.compute_loss(student, batch_of(rows))
        theirs = textbook(student, pico("llama", dtype=torch.float64), rows, 0.3, 2.0)
        torch.testing.assert_close(ours, theirs, rtol=CLOSE, atol=0)
        mine, reference = model_gradients(student, ours), model_gradients(student, theirs)
        assert mine.keys() == reference.keys()
        for name, gradient in reference.items():
            torch.testing.assert_close(mine[name], gradient, rtol=1e-5, atol=CLOSE)

    def test_it_is_asked_without_dropout_and_trains_on_with_it(self, tmp_path) -> None:
        student, rows = adapted("gpt2"), pico_rows(4)
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        trainer = DistillationTrainer(student, arguments(tmp_path), teacher_model="self", train_dataset=Rows(rows))
        student.train()
        batch = batch_of(rows)
        one, other = (trainer.teachers.ask(batch, torch.device("cpu"), trainer.workspace).values for _ in range(2))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert all(module.training for module in student.modules())
        assert any(parameter.requires_grad for parameter in student.parameters())

    def test_a_model_that_trains_whole_is_refused(self, tmp_path) -> None:
        with pytest.raises(RecipeError, match="cannot be its own teacher at every step"):
            DistillationTrainer(pico("llama"), arguments(tmp_path), teacher_model="self", train_dataset=Rows(pico_rows(4)))


def itself(shop: Workshop, **changes: Any) -> dict[str, Any]:
    return shop.layer(approach="distillation", teacher="self", **changes)


STILL = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-8}  # nothing moves, so the distance stays what it is at the start
METHODS = {"lora": {"kind": "lora", "dropout": 0.0}, "full": {"kind": "full"}}


class TestTheRun:
    @pytest.mark.parametrize("method", METHODS)
    def test_cached_is_online_is_a_second_model(self, method: str, tmp_path) -> None:
        shop, found = Workshop(tmp_path), {}
        for cache in ("auto", "none"):
            tuner = shop.tuner(itself(shop, method=METHODS[method], distillation={"cache": cache}))
            tuner.load_model()
            assert (tuner.teacher is not None) == (method == "full" and cache == "none")  # LoRA never holds a second copy
            tuner.run()
            found[cache] = tuner.model
        assert apart(weights(found["auto"]), weights(found["none"])) < 1e-6

    def test_the_cache_is_that_of_the_base_whatever_the_rank(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        for rank in (4, 8):
            shop.tuner(itself(shop, method={"kind": "lora", "r": rank})).run()
        assert len(list((shop.runtime.cache_dir / "teachers").glob("*/index.json"))) == 1

    def test_it_begins_at_no_distance_and_is_reported_like_a_fine_tuning(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        tuner = shop.tuner(itself(shop, method=METHODS["lora"], training=STILL, distillation={"alpha": 0.0}))
        assert tuner.run().scores["teacher"] is None
        assert tuner.outcome.finished.first_loss == pytest.approx(0, abs=1e-5)
        card = (tuner.folder.output_dir / "README.md").read_text()
        assert "An adapter for" in card
        assert "Distillation: from the model itself as it was before, forward_kl" in card
        assert "distilled from itself" in (tuner.folder.output_dir / "run" / "report.html").read_text()

    def test_an_earlier_adapter_is_part_of_what_it_was(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        first = shop.layer()
        shop.tuner(first).run()
        for cache in ("auto", "none"):
            changes = {"method": METHODS["lora"], "training": STILL, "distillation": {"alpha": 0.0, "cache": cache}}
            tuner = shop.tuner(itself(shop, model=first["output_dir"], **changes))
            tuner.run()
            assert tuner.outcome.finished.first_loss == pytest.approx(0, abs=1e-5), cache

    def test_the_plan_has_no_second_model(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        plans = {cache: shop.tuner(itself(shop, distillation={"cache": cache})).plan() for cache in ("auto", "none")}
        assert "teacher" not in plans["auto"].memory | plans["none"].memory
        assert plans["auto"].cache_bytes > 0 == plans["none"].cache_bytes
        whole = shop.tuner(itself(shop, method="full", distillation={"cache": "none"})).plan()
        assert whole.memory["teacher"] > 0


class TestTheRecipe:
    def test_defaults_are_those_of_a_fine_tuning_on_answers(self) -> None:
        recipe = Recipe.from_layers({"approach": "distillation", "teacher": "self"})
        assert recipe.method.kind == "lora"
        assert recipe.distillation.supervise == "answers"
        assert isinstance(recipe.model, str)
        assert (
            Recipe.from_layers({"approach": "distillation", "teacher": "self", "distillation": {"supervise": "all"}}).distillation.supervise
            == "all"
        )
        assert Recipe.from_layers(json.loads(recipe.model_dump_json())) == recipe

    @pytest.mark.parametrize(
        ("layer", "said"),
        [
            ({"model": {"from_teacher": {"layers": 2}}}, "without `from_teacher`"),
            ({"teacher": {"source": "self", "load_in": "8bit"}}, "leave out `load_in`"),
            ({"approach": "fine-tuning"}, "needs `approach: distillation`"),
        ],
    )
    def test_refusals(self, layer: dict, said: str) -> None:
        with pytest.raises(RecipeError, match=said):
            Recipe.from_layers({"approach": "distillation", "teacher": "self"}, layer)
