"""Whole runs of LLMFineTuner on pico models: what they leave behind, and that the same recipe gives the same numbers."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import arrow_dataset
from datasets.arrow_dataset import Column
from transformers import AutoModelForCausalLM, AutoTokenizer
from workshop import StopAt, Workshop, recorded

from finetune import LLMFineTuner, Recipe
from finetune.benchmark.perplexity import answer_losses
from finetune.errors import Diverged, Interrupted, OutputExists, RecipeError
from finetune.events import Notice, Recorder, read_events
from finetune.hardware.machine import glance
from finetune.recipe.schema import EDITOR_LINE, recipe_schema
from finetune.run.finetuner import RunResult
from finetune.run.result import read_otherwise
from finetune.wizard import ask_recipe
from finetune.wizard.asking.prompter import ScriptedPrompter
from finetune.wizard.host import HostInfo

TRAINING = {"train_seconds", "real_tokens", "tokens_per_second", "supervised_tokens", "peak_memory_bytes"}
RECORDS = {"recipe.yaml", "recipe.schema.json", "environment.json", "events.jsonl", "data_report.json", "benchmark.json", "report.html"}
METRICS = {"rouge1", "rougeL", "accuracy", "perplexity"}


@pytest.fixture(scope="module")
def one_by_one() -> Iterator[list[Any]]:
    """The columns of a dataset of which single values were asked for, as long as runs of this module go on."""
    asked: list[Any] = []

    class Watched(Column):
        def __getitem__(self, key: Any) -> Any:
            asked.extend([self.column_name] * isinstance(key, int))
            return super().__getitem__(key)

        def __iter__(self) -> Iterator[Any]:
            asked.append(self.column_name)
            return super().__iter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_dataset, "Column", Watched)
        yield asked


@pytest.fixture(scope="module")
def tuned(shop: Workshop, one_by_one: list[Any]) -> tuple[LLMFineTuner, RunResult]:
    tuner = shop.tuner(shop.layer())
    return tuner, tuner.run()


@pytest.fixture(scope="module")
def distilled(shop: Workshop, one_by_one: list[Any]) -> tuple[LLMFineTuner, RunResult]:
    tuner = shop.tuner(shop.distilling())
    return tuner, tuner.run()


@pytest.mark.usefixtures("tuned", "distilled")
def test_columns_of_a_dataset_are_read_whole(one_by_one: list[Any]) -> None:
    """A value at a time is a thousand times slower: a million rows took minutes before the first step."""
    assert not one_by_one


def scores(result: RunResult | dict[str, Any]) -> dict[str, Any]:
    """What must not change from run to run: everything that is not a measured speed or memory."""
    found = result.scores if isinstance(result, RunResult) else result
    return {key: value for key, value in found.items() if key not in ("speed", "size")}


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_lora_run_leaves_an_adapter_a_tokenizer_a_card_and_its_records(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    folder = tuned[1].output_dir
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "run"} <= names(
        folder
    )
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".part")]
    assert names(folder / "run") >= RECORDS


def test_a_distillation_leaves_a_whole_model_that_is_smaller_than_its_teacher(distilled: tuple[LLMFineTuner, RunResult]) -> None:
    folder = distilled[1].output_dir
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "run"} <= names(folder)
    assert names(folder / "run") >= RECORDS
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2
    sizes = distilled[1].scores["size"]
    assert sizes["after"]["parameters"] < sizes["teacher"]["parameters"]


def test_benchmark_json_has_what_it_promises(tuned: tuple[LLMFineTuner, RunResult], distilled: tuple[LLMFineTuner, RunResult]) -> None:
    for _, result in (tuned, distilled):
        written = json.loads((result.output_dir / "run" / "benchmark.json").read_text())
        assert written == json.loads(json.dumps(result.scores))
        assert {"rows", "before", "after", "teacher", "retention", "speed", "intervals", "generations"} <= set(written)
        assert written["rows"] == len(written["generations"]) == 6
        assert set(written["before"]) & set(written["after"]) >= METRICS
        assert {"reference", "before", "after"} <= set(written["generations"][0])
        for metric, (low, high) in written["intervals"]["after"].items():
            assert low <= written["after"][metric] <= high, metric
    assert tuned[1].scores["teacher"] is tuned[1].scores["retention"] is None
    assert set(distilled[1].scores["teacher"]) >= METRICS
    assert {"kl", "agreement"} <= set(distilled[1].scores["after"])
    assert set(distilled[1].scores["retention"]) <= {"rougeL"}


def test_training_lowers_perplexity_on_rows_it_never_saw(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    found = tuned[1].scores
    assert found["after"]["perplexity"] < 0.7 * found["before"]["perplexity"]


def test_distillation_brings_the_student_nearer_to_its_teacher(distilled: tuple[LLMFineTuner, RunResult]) -> None:
    found = distilled[1].scores
    assert found["after"]["kl"] < found["before"]["kl"]


def test_the_training_record_counts_every_token_once_per_epoch(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    tuner, result = tuned
    (record,) = [event for event in read_events(result.output_dir / "run" / "events.jsonl") if event["event"] == "training"]
    assert set(record) >= TRAINING
    assert record["real_tokens"] == 2 * sum(map(len, tuner.data.train["input_ids"]))
    assert record["supervised_tokens"] == 2 * sum(label != -100 for row in tuner.data.train["labels"] for label in row[1:])
    assert record["tokens_per_second"] == pytest.approx(record["real_tokens"] / record["train_seconds"], rel=0.02)
    assert record["peak_memory_bytes"] > 1e7
    assert {key: record[key] for key in TRAINING} == {key: result.training[key] for key in TRAINING}


def test_the_recipe_is_written_before_training_with_every_default(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    events = [event["event"] for event in read_events(tuned[1].output_dir / "run" / "events.jsonl")]
    written = tuned[1].output_dir / "run" / "recipe.yaml"
    assert events.index("data") < events.index("step")
    assert Recipe.load(written) == tuned[0].recipe
    assert yaml.safe_load(written.read_text()) == tuned[0].recipe.model_dump(mode="json")
    assert written.read_text().startswith(EDITOR_LINE)
    assert json.loads((written.parent / "recipe.schema.json").read_text()) == recipe_schema()
    environment = json.loads((written.parent / "environment.json").read_text())
    assert environment["dataset_fingerprint"] == tuned[0].data.fingerprint
    assert torch.__version__.startswith(environment["versions"]["torch"])  # of a CUDA wheel the version alone has no "+cu128"


def test_no_row_of_the_benchmark_was_trained_on(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    data = tuned[0].data
    assert {tuple(row) for row in data.train["input_ids"]}.isdisjoint(map(tuple, data.held_out["input_ids"]))
    assert len(data.held_out) == 8


def test_the_output_folder_loads_as_it_is_and_gives_the_logits_of_the_trained_model(
    tuned: tuple[LLMFineTuner, RunResult], distilled: tuple[LLMFineTuner, RunResult]
) -> None:
    for tuner, result in (tuned, distilled):
        ids = AutoTokenizer.from_pretrained(result.output_dir)("say cat a")["input_ids"]
        again = AutoModelForCausalLM.from_pretrained(result.output_dir)
        torch.testing.assert_close(logits(again, ids), logits(tuner.model, ids), rtol=1e-4, atol=1e-4)


def test_the_adapter_changes_what_the_model_says(shop: Workshop, tuned: tuple[LLMFineTuner, RunResult]) -> None:
    base = AutoModelForCausalLM.from_pretrained(shop.model)
    ids = tuned[0].data.held_out[0]["input_ids"]
    assert (logits(base, ids) - logits(tuned[0].model, ids)).abs().max() > 0.1


@pytest.mark.parametrize("make", [Workshop.layer, Workshop.distilling], ids=["lora", "distillation"])
def test_the_same_seed_gives_the_same_scores_and_weights(make: Any, shop: Workshop) -> None:
    tuners = [shop.tuner(make(shop)) for _ in range(2)]
    first, second = (tuner.run() for tuner in tuners)
    assert scores(first) == scores(second)
    for name, weight in tuners[0].model.state_dict().items():
        assert torch.equal(weight, tuners[1].model.state_dict()[name]), name


def test_another_seed_gives_other_scores(shop: Workshop, tuned: tuple[LLMFineTuner, RunResult]) -> None:
    assert scores(shop.tuner(shop.layer(seed=43)).run())["after"] != scores(tuned[1])["after"]


@pytest.mark.parametrize("which", ["tuned", "distilled"])
def test_measuring_a_finished_run_again_gives_its_scores(which: str, shop: Workshop, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(which)[1]
    kept = (result.output_dir / "run" / "benchmark.json").read_text()
    again = LLMFineTuner.of_run(result.output_dir, reporter=Recorder(), runtime=shop.runtime).benchmark()
    assert scores(again) == scores(json.loads(kept))


def test_rows_that_are_now_read_in_another_format_than_they_were_learned_in_are_told() -> None:
    assert read_otherwise("text", "prompt_completion") == (
        "The run learned its rows as plain text, and they are now read as prompt and completion. "
        "To measure what it learned, name dataset.columns in its run/recipe.yaml."
    )
    assert (read_otherwise("text", "text"), read_otherwise(None, "text")) == (None, None)


@pytest.mark.parametrize("make", [Workshop.layer, Workshop.distilling], ids=["lora", "distillation"])
def test_measuring_again_rounds_as_the_run_did_in_16_bits_too(make: Any, shop: Workshop) -> None:
    runtime = replace(shop.runtime, dtype="bfloat16")
    result = LLMFineTuner(Recipe.from_layers(make(shop)), runtime=runtime).run()
    again = LLMFineTuner.of_run(result.output_dir, runtime=runtime).benchmark()
    assert scores(again) == scores(result)


def test_a_chosen_student_learns_from_a_teacher_with_the_same_tokenizer(shop: Workshop) -> None:
    tuner = shop.tuner(shop.distilling(model=str(shop.smaller_model()), method={"kind": "lora"}))
    found = tuner.run().scores
    assert found["after"]["kl"] < found["before"]["kl"]
    assert {"adapter_model.safetensors"} <= names(tuner.folder.output_dir)
    assert tuner.recipe.model == str(shop.smaller_model())
    assert found["size"]["after"]["bytes_on_disk"] == (tuner.folder.output_dir / "adapter_model.safetensors").stat().st_size
    assert found["size"]["teacher"]["bytes_on_disk"] is None, "the size of an adapter says nothing about that of a whole model"


def test_the_output_of_a_run_can_teach(shop: Workshop, tuned: tuple[LLMFineTuner, RunResult]) -> None:
    on_the_same_tokens = {"supervise": "answers"}
    found = shop.tuner(shop.distilling(teacher=str(tuned[1].output_dir), distillation=on_the_same_tokens)).run().scores
    assert found["teacher"]["perplexity"] == pytest.approx(tuned[1].scores["after"]["perplexity"], rel=1e-3)


def test_the_names_users_know_do_a_distillation_step_by_step(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer(model={"from_teacher": {"layers": 2}}, approach="distillation", teacher=str(shop.model)))
    before = tuner.plan()
    teacher = tuner.load_teacher_model(str(shop.model))
    assert teacher.config.num_hidden_layers == 3
    tuner.plan()
    tuner.train_distillation(temperature=3.0, alpha=0.25, epochs=1)
    (written,) = [record for record in read_events(tuner.folder.events) if record["event"] == "plan"]
    assert written["plan"]["steps"] == before.steps // 2, "what was planned for other epochs is forgotten"
    assert (tuner.recipe.distillation.temperature, tuner.recipe.distillation.alpha, tuner.recipe.training.epochs) == (3.0, 0.25, 1)
    assert tuner.benchmark()["after"]["kl"] > 0


def test_questions_yaml_and_python_give_the_same_recipe_and_the_same_scores(
    shop: Workshop, tuned: tuple[LLMFineTuner, RunResult], tmp_path: Path
) -> None:
    """The recipe of the mapping `tuned` was made from, as a file with changes on top, and as answers to the wizard."""
    layer = {**shop.layer(), "output_dir": "X"}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**layer, "seed": 1, "training": {**layer["training"], "epochs": 9}}))
    from_file = Recipe.load(file, overrides=["training.epochs=2", "seed=42"])
    answers = {
        "model": "another",
        "model.name": str(shop.model),
        "dataset.source": "a file",
        "dataset.file": str(shop.rows),
        "dataset.samples": "all",
        "method.kind": "lora",
        "output_dir": "X",
        "training.epochs": "2",
        "training.batch_size": "6",
        "training.learning_rate": "0.01",
        "advanced": True,
        "dataset.max_length": "64",
        "dataset.held_out": "0.25",
        "benchmark.rows": "6",
        "benchmark.max_new_tokens": "8",
    }
    asked = ask_recipe(ScriptedPrompter(answers, otherwise_default=True), lambda: HostInfo(glance(), False, shop.runtime))
    assert asked.to_yaml() == from_file.to_yaml() == Recipe.from_layers(layer).to_yaml()
    for number, recipe in enumerate((asked, from_file)):
        folder = tmp_path / str(number)
        result = LLMFineTuner(recipe.with_changes({"output_dir": str(folder)}), runtime=shop.runtime).run()
        assert recipe_of(folder) == recipe_of(tuned[1].output_dir)
        assert scores(result) == scores(tuned[1])


def recipe_of(folder: Path) -> str:
    return (folder / "run" / "recipe.yaml").read_text().replace(str(folder), "X")


def test_the_base_model_is_measured_once_per_model_and_rows(shop: Workshop, tuned: tuple[LLMFineTuner, RunResult]) -> None:
    tuner = shop.tuner(shop.layer(training={"epochs": 1, "learning_rate": 1e-3}))
    tuner.train()
    recorder = recorded(tuner)
    assert any("reused from an earlier run" in notice.text for notice in recorder.of(Notice))


def test_a_folder_with_a_run_in_it_is_left_alone(shop: Workshop, tuned: tuple[LLMFineTuner, RunResult]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tuned[1].output_dir.rglob("*")}
    with pytest.raises(OutputExists, match="nothing is overwritten"):
        shop.tuner(shop.layer(output_dir=str(tuned[1].output_dir))).run()
    assert {path: path.stat().st_mtime_ns for path in tuned[1].output_dir.rglob("*")} == before


def test_a_run_that_has_begun_keeps_its_recipe(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    tuner, recipe = tuned[0], tuned[0].recipe
    with pytest.raises(OutputExists):
        tuner.load_teacher_model("another")
    with pytest.raises(OutputExists):
        tuner.train_distillation(temperature=4.0)
    assert tuner.recipe == recipe, "benchmark() measures what was trained"


def test_the_plan_counts_what_the_run_then_does(shop: Workshop, tuned: tuple[LLMFineTuner, RunResult]) -> None:
    layer = shop.layer()
    plan = shop.tuner(layer).plan()
    assert plan.steps == tuned[1].training["steps"]
    assert (plan.parameters, plan.trainable_parameters) == (tuned[1].training["parameters"], tuned[1].training["trainable_parameters"])
    assert not Path(layer["output_dir"]).exists()


def test_ctrl_c_finishes_the_step_saves_and_says_130(shop: Workshop) -> None:
    tuner = LLMFineTuner(Recipe.from_layers(shop.layer(), {"training": {"epochs": 50}}), reporter=StopAt(3), runtime=shop.runtime)
    with pytest.raises(Interrupted, match="after step") as stopped:
        tuner.run()
    assert stopped.value.exit_code == 130
    assert stopped.value.saved == tuner.folder.output_dir
    assert tuner.outcome is not None
    assert tuner.outcome.finished.steps in (3, 4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "what Ctrl-C did before is restored"
    assert "adapter_model.safetensors" in names(tuner.folder.output_dir)
    assert "README.md" not in names(tuner.folder.output_dir), "peft's form, which nobody filled in"
    half = tuner.benchmark()
    assert half["after"]["perplexity"] < half["before"]["perplexity"]
    assert tuner.model is None, "another tuner may go on in the folder, and what is in it is measured then"


def test_a_loss_that_is_no_number_stops_the_run_at_its_step(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer())
    model = tuner.load_model()
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(Diverged, match="at step 1") as diverged:
        tuner.train()
    assert "learning_rate" in str(diverged.value.hint)
    assert not (tuner.folder.output_dir / "adapter_model.safetensors").exists(), "a broken model is not saved"


@pytest.mark.skipif(sys.platform == "win32", reason="flock is Unix's")
def test_on_a_file_system_without_locks_and_fsync_the_run_is_the_same_and_says_so_once(
    shop: Workshop, tuned: tuple[LLMFineTuner, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS and Lustre can be mounted."""

    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setattr("os.fsync", refused)
    recorder = Recorder()
    tuner = shop.tuner(shop.layer())
    tuner.reporter.reporters.append(recorder)
    assert scores(tuner.run()) == scores(tuned[1])
    warnings = [event.text for event in recorder.of(Notice) if event.level == "warning"]
    assert sum("without locks" in text for text in warnings) == sum("loss of power" in text for text in warnings) == 1


def test_a_teacher_that_is_the_student_is_refused_before_the_work(shop: Workshop) -> None:
    tuner = shop.tuner(shop.distilling(model=str(shop.model)))
    with pytest.raises(RecipeError, match="same model") as refused:
        tuner.run()
    assert "from_teacher" in str(refused.value.hint)
    assert not tuner.folder.output_dir.exists()


def test_loss_on_held_out_rows_is_that_of_the_benchmark(tuned: tuple[LLMFineTuner, RunResult]) -> None:
    """Perplexity by a plain forward pass with full logits, independent of the engine's head."""
    tuner, result = tuned
    total, count = 0.0, 0
    texts = {generation["reference"] for generation in result.scores["generations"]}
    rows = [row for row in tuner.data.held_out if row["reference"] in texts]
    for row in rows:
        scored = logits(tuner.model, row["input_ids"])[0, :-1].log_softmax(-1)
        labels = torch.tensor(row["labels"][1:])
        places = (labels != -100).nonzero().squeeze(1)
        total -= float(scored[places, labels[places]].sum())
        count += len(places)
    losses = answer_losses(tuner.model, rows, reporter=Recorder(), stage="after")
    assert sum(losses.tokens) == count
    assert sum(losses.sums) == pytest.approx(total, rel=1e-4)
    assert result.scores["after"]["perplexity"] == pytest.approx(float(torch.tensor(total / count).exp()), rel=1e-3)
