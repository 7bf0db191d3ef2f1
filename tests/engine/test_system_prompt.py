"""A teacher that is told more than its student: the same answers behind a system prompt, cached, online and in the plan."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from letters import tokenizer
from pico import apart
from pico import weights as parameters
from test_resume import TRAINING, StopAt, resumed, weights
from workshop import Workshop

from finetune import Recipe
from finetune.data.prepare import prepare_data
from finetune.data.tokens.system_prompt import TEACHER_IDS, as_teacher_sees
from finetune.distillation.pair_checks import about_prompt
from finetune.errors import DatasetError, Interrupted, RecipeError
from finetune.events import Recorder
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions

PROMPT = "be a cat"
STILL = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-8}


def itself(shop: Workshop, **changes: Any) -> dict[str, Any]:
    plain = {"method": {"kind": "lora", "dropout": 0.0}, "teacher": {"source": "self", "system": PROMPT}}
    return shop.layer(approach="distillation", **{**plain, **changes})


def prepared(tmp_path: Any, rows: list[Any], chat: bool = True, **changes: Any) -> Any:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DatasetSpec(source=str(file), held_out=0.25, **{"max_length": 200, **changes})
    return prepare_data(spec, tokenizer(chat=chat), seed=1, system=PROMPT, runtime=RuntimeOptions(cache_dir=tmp_path / "cache"))


TURNS = [
    [
        {"role": "user", "content": f"hi {n}"},
        {"role": "assistant", "content": f"yes {n}"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": f"no {n}"},
    ]
    for n in range(8)
]
KINDS = {
    "pairs": [{"prompt": f"say {'ab' * n}", "completion": f"ok {n}"} for n in range(8)],
    "turns": [{"messages": turns} for turns in TURNS],
    "told already": [{"messages": [{"role": "system", "content": "be short"}, *turns]} for turns in TURNS],
}


class TestTheRows:
    @pytest.mark.parametrize("chat", [True, False])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("length", [200, 24])
    def test_both_sides_learn_the_same_tokens(self, kind: str, chat: bool, length: int, tmp_path) -> None:
        data, reader = prepared(tmp_path, KINDS[kind], chat, max_length=length), tokenizer(chat=chat)
        for row in [*data.train, *data.held_out]:
            seen = as_teacher_sees(row)
            assert [label for label in seen["labels"] if label != -100] == [label for label in row["labels"] if label != -100]
            assert all(label in (-100, token) for label, token in zip(seen["labels"], seen["input_ids"], strict=True))
            assert "cat" in reader.decode(seen["input_ids"]).replace(" ", "")
            assert "cat" not in reader.decode(row["input_ids"]).replace(" ", "")
            if "prompt_ids" in row:  # what comes after the prompt is the same
                assert seen["input_ids"][len(seen["prompt_ids"]) :] == row["input_ids"][len(row["prompt_ids"]) :]

    def test_uncut_rows_are_those_of_the_chat_template(self, tmp_path) -> None:
        data, reader = prepared(tmp_path, KINDS["pairs"]), tokenizer(chat=True)
        told = [{"role": "system", "content": PROMPT}]
        asked = {f"say {'ab' * n}": f"ok {n}" for n in range(8)}
        for row in data.held_out:
            whole = [*told, {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": asked[row["prompt"]]}]
            text = reader.apply_chat_template(whole, tokenize=False)
            ids = reader(text, add_special_tokens=False)["input_ids"]
            assert ids[: len(row[TEACHER_IDS])] == row[TEACHER_IDS]

    @pytest.mark.parametrize("rows", [[{"text": f"a text {n}"} for n in range(8)], [{"input_ids": [5, 6, 7, n]} for n in range(8)]])
    def test_rows_without_a_place_for_it_are_refused(self, rows: list[Any], tmp_path) -> None:
        with pytest.raises(DatasetError, match="a system prompt has no place"):
            prepared(tmp_path, rows)

    def test_the_students_rows_and_their_fingerprint_stay_as_they_are(self, tmp_path) -> None:
        data = prepared(tmp_path, KINDS["pairs"])
        spec = DatasetSpec(source=str(tmp_path / "rows.jsonl"), held_out=0.25, max_length=200)
        plain = prepare_data(spec, tokenizer(chat=True), seed=1, runtime=RuntimeOptions(cache_dir=tmp_path / "cache"))
        assert plain.fingerprint == data.fingerprint
        assert plain.train[:] == data.train.remove_columns([TEACHER_IDS])[:]
        assert TEACHER_IDS not in plain.train.column_names


class TestTheRun:
    @pytest.mark.parametrize("teacher", ["self", "other"])
    def test_cached_is_online(self, teacher: str, tmp_path) -> None:
        shop, found = Workshop(tmp_path), {}
        other = {"teacher": {"source": str(shop.model), "system": PROMPT}, "model": str(shop.smaller_model())}
        changes = other if teacher == "other" else {}
        for cache in ("auto", "none"):
            tuner = shop.tuner(itself(shop, **changes, distillation={"cache": cache}))
            tuner.run()
            found[cache] = parameters(tuner.model)
        assert apart(found["auto"], found["none"]) < 1e-5

    def test_the_first_loss_is_the_distance_to_the_prompted_model(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        tuner = shop.tuner(itself(shop, training=STILL, distillation={"alpha": 0.0, "temperature": 1.0}))
        tuner.run()
        model = load_model(locate(str(shop.model), shop.runtime, Recorder()), tuner.context.machine)
        total, tokens = 0.0, 0
        for row in tuner.data.train:
            seen = as_teacher_sees(row)
            with torch.no_grad():
                theirs, ours = (model(torch.tensor([each["input_ids"]])).logits[0, :-1].double().log_softmax(-1) for each in (seen, row))
            q, p = (x[torch.tensor(each["labels"][1:]) != -100] for x, each in ((theirs, seen), (ours, row)))
            total, tokens = total + float((q.exp() * (q - p)).sum()), tokens + len(q)
        assert total / tokens > 0.05
        assert tuner.outcome.finished.first_loss == pytest.approx(total / tokens, rel=0.2)  # of some of the steps
        losses = [event.loss for event in tuner.context.reporter.reporters[0].events if type(event).__name__ == "TrainingStep"]
        assert sum(losses) / len(losses) == pytest.approx(total / tokens, rel=0.02)

    def test_another_prompt_is_another_cache_and_the_page_and_the_card_say_it(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        for prompt in (PROMPT, "be a dog", PROMPT):
            tuner = shop.tuner(itself(shop, training=STILL, teacher={"source": "self", "system": prompt}))
            tuner.run()
        assert len(list((shop.runtime.cache_dir / "teachers").glob("*/index.json"))) == 2
        assert f"had this system prompt: {PROMPT}" in (tuner.folder.output_dir / "README.md").read_text()
        assert f"system prompt: {PROMPT}" in (tuner.folder.output_dir / "run" / "report.html").read_text()

    @pytest.mark.parametrize("cache", ["auto", "none"])
    def test_a_stopped_run_ends_like_one_that_was_not_stopped(self, cache: str, tmp_path) -> None:
        """With an objective that changes during the training, and a teacher that no longer is what trains."""
        shop = Workshop(tmp_path)
        changes = {"training": {**TRAINING, "epochs": 1}, "distillation": {"objective": "taid", "cache": cache}}
        whole = shop.tuner(itself(shop, **changes)).run()
        tuner = shop.tuner(itself(shop, **changes))
        tuner.reporter.reporters.append(StopAt(2))
        with pytest.raises(Interrupted):
            tuner.run()
        shutil.rmtree(shop.runtime.cache_dir / "teachers", ignore_errors=True)  # it is asked again, as it was before the run
        assert weights(resumed(tuner.folder.output_dir, shop)[0]) == weights(whole)

    def test_a_prompt_that_changes_nothing_is_reported(self, tmp_path) -> None:
        shop = Workshop(tmp_path)
        tuner = shop.tuner(itself(shop))
        model, rows = tuner.load_model(), list(tuner.data.held_out)
        assert about_prompt(model, rows).level == "ok"
        same = [{**row, TEACHER_IDS: row["input_ids"]} for row in rows]
        found = about_prompt(model, same)
        assert found.level == "warning"
        assert "KL of 0.000" in found.text


class TestTheRecipe:
    def test_only_answers_are_compared(self) -> None:
        recipe = Recipe.from_layers({"approach": "distillation", "teacher": {"source": "gpt2-medium", "system": PROMPT}})
        assert recipe.distillation.supervise == "answers"
        with pytest.raises(RecipeError, match="only answers can be compared: use `supervise: answers`"):
            recipe.with_changes({"distillation": {"supervise": "all"}})
