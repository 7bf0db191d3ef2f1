"""Resuming an interrupted run: from where, what is said, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from letters import llama
from workshop import StopAt, Workshop, model_folder

from finetune import LLMFineTuner, __version__
from finetune.cli import main
from finetune.errors import CannotResume, Diverged, Interrupted
from finetune.events import CheckpointSaved, Notice, Recorder, Resumed, TrainingStep, read_events
from finetune.run.finetuner import RunResult
from finetune.run.resume import take_up
from finetune.training.checkpoints import Checkpoints
from finetune.training.trainer import SupervisedTrainer

TRAINING = {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, "save_every": 1}
STEPS = 8


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> RunResult:
    """The run that nothing interrupts."""
    return shop.tuner(shop.layer(training=TRAINING)).run()


def stopped(shop: Workshop, step: int, **changes: Any) -> Path:
    """The folder of a run that was stopped while step `step` was reported, which is after it."""
    tuner = shop.tuner(shop.layer(training={**TRAINING, **changes}))
    tuner.reporter.reporters.append(StopAt(step))
    with pytest.raises(Interrupted):
        tuner.run()
    return tuner.folder.output_dir


def resumed(folder: Path, shop: Workshop) -> tuple[RunResult, Recorder]:
    recorder = Recorder()
    return LLMFineTuner.unfinished(folder, reporter=recorder, runtime=shop.runtime).run(), recorder


def said(recorder: Recorder) -> str:
    return "\n".join(notice.text for notice in recorder.of(Notice))


def weights(result: RunResult) -> bytes:
    return (result.output_dir / "adapter_model.safetensors").read_bytes()


def scores(result: RunResult) -> dict[str, Any]:
    return {key: value for key, value in result.scores.items() if key not in ("speed", "size")}


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "run" / "checkpoints").iterdir())


def test_a_stopped_run_says_how_to_go_on_and_ends_like_one_that_was_not_stopped(shop: Workshop, whole: RunResult) -> None:
    tuner = shop.tuner(shop.layer(training=TRAINING))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted, match="Stopped after step 4 of 8") as interrupted:
        tuner.run()
    folder = tuner.folder.output_dir
    assert interrupted.value.hint == f"Continue: finetune-cli resume {folder}"
    assert [path.name for path in checkpoints(folder)] == ["step-00000003", "step-00000004"]
    result, recorder = resumed(folder, shop)
    assert f"Continuing {folder} after step 4 of 8, saved less than a minute ago" in said(recorder)
    assert [step.step for step in recorder.of(TrainingStep)] == [5, 6, 7, 8]
    assert recorder.of(Resumed) == [Resumed(4, STEPS)]
    assert weights(result) == weights(whole)
    assert scores(result) == scores(whole)
    for total in ("steps", "real_tokens", "supervised_tokens", "first_loss", "final_loss", "parameters"):
        assert result.training[total] == whole.training[total]
    events = read_events(folder / "run" / "events.jsonl")
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, STEPS + 1))
    assert not (folder / "run" / "checkpoints").exists()


def test_time_before_the_interruption_counts(shop: Workshop) -> None:
    folder = stopped(shop, 3)
    newest = Checkpoints(folder / "run" / "checkpoints").all()[0]
    result, _ = resumed(folder, shop)
    assert result.training["train_seconds"] > newest.facts["seconds"] > 0


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage: str, shop: Workshop, whole: RunResult) -> None:
    folder = stopped(shop, 4)
    victim = checkpoints(folder)[-1]
    target = victim / ("manifest.json" if damage == "manifest" else "state.pt")
    content = target.read_bytes()
    if damage == "gone":
        target.unlink()
    else:
        target.write_bytes(content[:-100] if damage in ("cut", "manifest") else content[:-100] + bytes(100))
    result, recorder = resumed(folder, shop)
    assert f"The checkpoint {victim.name} is damaged ({target.name} " in said(recorder)
    assert "after step 4 of 8" in said(recorder)
    assert weights(result) == weights(whole)


def test_without_a_sound_checkpoint_it_starts_over_and_says_so(shop: Workshop, whole: RunResult) -> None:
    folder = stopped(shop, 2)
    saved = checkpoints(folder)
    for path in saved:
        (path / "weights.pt").unlink()
    result, recorder = resumed(folder, shop)
    assert said(recorder).count("is damaged (weights.pt is missing)") == len(saved) >= 2
    assert "training starts again at step 1" in said(recorder)
    assert len(recorder.of(TrainingStep)) == STEPS
    assert weights(result) == weights(whole)


def test_the_folder_may_be_moved(shop: Workshop, whole: RunResult) -> None:
    folder = stopped(shop, 3)
    moved = folder.with_name("elsewhere") / "model"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    result, _ = resumed(moved, shop)
    assert result.output_dir == moved
    assert weights(result) == weights(whole)
    assert not folder.exists()


def change_recipe(folder: Path, shop: Workshop) -> None:
    recipe = folder / "run" / "recipe.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["training"]["learning_rate"] = 0.02
    recipe.write_text(yaml.safe_dump(content))


def change_version(folder: Path, shop: Workshop) -> None:
    path = folder / "run" / "environment.json"
    content = json.loads(path.read_text())
    content["versions"]["peft"] = "99.1"
    path.write_text(json.dumps(content))


def change_rows(folder: Path, shop: Workshop) -> None:
    recipe = folder / "run" / "recipe.yaml"
    other = shop.folder / "other_rows.jsonl"
    other.write_text(shop.rows.read_text().replace("cat", "rat"))
    recipe.write_text(recipe.read_text().replace(str(shop.rows), str(other)))


def change_program(folder: Path, shop: Workshop) -> None:
    change_rows(folder, shop)
    path = folder / "run" / "environment.json"
    content = json.loads(path.read_text())
    content["versions"]["finetune-cli"] = "0.1"
    path.write_text(json.dumps(content))


def change_model(folder: Path, shop: Workshop) -> None:
    recipe = folder / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(f"model: {shop.model}", f"model: {shop.smaller_model()}"))


def older(folder: Path) -> None:
    """As if the version that began the run had not known some keys yet."""
    for path in checkpoints(folder):
        manifest = json.loads((path / "manifest.json").read_text())
        for key in ("training.keep", "training.evaluate_every", "dataset.add_tokens"):
            del manifest["made_with"]["recipe"][key]
        (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_of_a_version_with_fewer_keys_goes_on(kind: str, shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer(training=TRAINING, method=kind))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted):
        tuner.run()
    older(tuner.folder.output_dir)
    result, recorder = resumed(tuner.folder.output_dir, shop)
    assert recorder.of(Resumed) == [Resumed(4, STEPS)]
    assert result.training["steps"] == STEPS


@pytest.mark.parametrize(
    ("recorded", "change", "goes_on"),
    [(True, False, "as if nothing had happened"), (False, False, "with a warning"), (False, True, "")],
    ids=["contents", "no contents", "no contents, other rows"],
)
def test_a_run_of_a_version_that_read_rows_under_another_name_goes_on(recorded: bool, change: bool, goes_on: str, shop: Workshop) -> None:
    folder = stopped(shop, 1)
    path = folder / "run" / "environment.json"
    written = {**json.loads(path.read_text()), "dataset_fingerprint": "of another version"}
    if not recorded:
        del written["dataset_contents"]
    path.write_text(json.dumps(written))
    if change:
        change_rows(folder, shop)
    recorder = Recorder()
    tuner = LLMFineTuner.unfinished(folder, reporter=recorder, runtime=shop.runtime)
    if goes_on:
        assert take_up(tuner.context, tuner.folder)[0].step == 2
        assert [notice.level for notice in recorder.of(Notice)] == ([] if recorded else ["warning"]) + ["info"]
    else:
        with pytest.raises(CannotResume, match="have changed since the run began"):
            take_up(tuner.context, tuner.folder)


def other_weights(folder: Path) -> None:
    """Of the same size, and as old as those before."""
    file = folder / "model.safetensors"
    state = file.stat()
    llama(seed=77, layers=3).save_pretrained(folder)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_recipe, "training.learning_rate is 0.02 in run/recipe.yaml, and the run began with 0.01"),
        (change_version, "The run began with peft 99.1"),
        (change_rows, "have changed since the run began."),
        (change_program, f"have changed since the run began, or version {__version__} reads them in another way than 0.1."),
        (change_model, "has changed since the run began"),
    ],
    ids=["recipe", "version", "rows", "program", "model"],
)
def test_what_changed_in_a_way_that_matters_is_refused_in_one_sentence(change: Any, words: str, shop: Workshop) -> None:
    folder = stopped(shop, 3)
    change(folder, shop)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "events.jsonl"}
    with pytest.raises(CannotResume) as refused:
        resumed(folder, shop)
    assert words in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.exit_code == 2
    assert {path: path.read_bytes() for path in before} == before, "nothing is touched"


@pytest.mark.parametrize("role", ["model", "teacher"])
@pytest.mark.parametrize("recorded", [True, False], ids=["", "by an older version"])
def test_other_weights_in_the_same_folder_are_refused_where_the_run_wrote_down_which_it_had(
    role: str, recorded: bool, shop: Workshop, tmp_path: Path
) -> None:
    own = model_folder(tmp_path / "own", layers=3)
    changes = {"model": str(own)} if role == "model" else {"model": str(shop.smaller_model()), "teacher": str(own)}
    tuner = shop.tuner((shop.layer if role == "model" else shop.distilling)(training=TRAINING, **changes))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted):
        tuner.run()
    path = tuner.folder.environment
    written = json.loads(path.read_text())
    if not recorded:
        del written["teacher"], written["model"]["identity"]
        path.write_text(json.dumps(written))
        assert resumed(tuner.folder.output_dir, shop)[0].training["steps"] == STEPS
        return
    other_weights(own)
    with pytest.raises(CannotResume, match=f"The {role} own has changed since the run began: its content differs"):
        resumed(tuner.folder.output_dir, shop)


def test_a_model_folder_that_was_copied_is_the_same_model(shop: Workshop, tmp_path: Path) -> None:
    own = model_folder(tmp_path / "own", layers=3)
    tuner = shop.tuner(shop.layer(training=TRAINING, model=str(own)))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted):
        tuner.run()
    copied = Path(shutil.copytree(own, tmp_path / "copy", copy_function=shutil.copyfile))
    shutil.rmtree(own)
    copied.rename(own)
    assert resumed(tuner.folder.output_dir, shop)[0].training["steps"] == STEPS


def test_what_changes_no_weight_may_change(shop: Workshop, whole: RunResult) -> None:
    folder = stopped(shop, 3)
    recipe = folder / "run" / "recipe.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["benchmark"]["rows"], content["training"]["keep_checkpoints"] = 3, True
    recipe.write_text(yaml.safe_dump(content))
    result, _ = resumed(folder, shop)
    assert weights(result) == weights(whole)
    assert result.scores["rows"] == 3
    assert checkpoints(folder)[-1].name == "step-00000008", "kept, because asked"


def test_a_run_interrupted_while_it_measured_goes_on_measuring(shop: Workshop, whole: RunResult) -> None:
    layer = shop.layer(training=TRAINING)
    trained = shop.tuner(layer)
    trained.train()
    result, recorder = resumed(trained.folder.output_dir, shop)
    assert "only the benchmark is left" in said(recorder)
    assert not recorder.of(TrainingStep)
    assert scores(result) == scores(whole)
    assert result.training == {**result.training, "steps": STEPS, "real_tokens": whole.training["real_tokens"]}


def test_a_recipe_that_changed_once_the_training_was_over_is_refused(shop: Workshop) -> None:
    trained = shop.tuner(shop.layer(training=TRAINING))
    trained.train()
    change_recipe(trained.folder.output_dir, shop)
    with pytest.raises(CannotResume, match=r"learning_rate is 0\.02 in run/recipe\.yaml, and the run began with 0\.01"):
        resumed(trained.folder.output_dir, shop)


@pytest.mark.parametrize("then", ["resume", "benchmark"])
@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_of_a_run_that_was_killed_once_its_training_was_complete_do_not_stay(then: str, keep: bool, shop: Workshop) -> None:
    """Between the note that it is complete and the removal: whoever goes on removes them."""
    trained = shop.tuner(shop.layer(training={**TRAINING, "keep_checkpoints": True}))
    trained.train()
    folder = trained.folder
    assert checkpoints(folder.output_dir)
    folder.recipe.write_text(folder.recipe.read_text().replace("keep_checkpoints: true", f"keep_checkpoints: {str(keep).lower()}"))
    if then == "resume":
        resumed(folder.output_dir, shop)
    else:
        LLMFineTuner.of_run(folder.output_dir, runtime=shop.runtime).benchmark()
    assert folder.checkpoints.exists() is keep


def test_a_finished_run_says_that_it_is_finished(shop: Workshop, whole: RunResult, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CannotResume, match="is finished: there is nothing left to resume"):
        LLMFineTuner.unfinished(whole.output_dir, runtime=shop.runtime)
    assert main(["resume", str(whole.output_dir), "--json"]) == 0
    out, err = capfd.readouterr()
    assert "is finished" in err.replace("\n", " ")
    assert json.loads(out)["training"]["steps"] == STEPS


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(tmp_path)]) == 2
    assert "is not a run folder" in capfd.readouterr().err


def test_saving_every_so_many_steps_and_at_the_end(shop: Workshop) -> None:
    recorder = Recorder()
    tuner = shop.tuner(shop.layer(training={**TRAINING, "save_every": 3}))
    tuner.reporter.reporters.append(recorder)
    tuner.train()
    assert [saved.step for saved in recorder.of(CheckpointSaved)] == [3, 6, 8]
    assert all(saved.bytes > 10_000 and saved.total_steps == STEPS for saved in recorder.of(CheckpointSaved))


def test_a_loss_that_is_no_number_keeps_the_last_good_state(shop: Workshop, whole: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number comes from outside, as from a broken machine, so that the same run can go on afterwards."""
    loss_sum = SupervisedTrainer.loss_sum

    def broken(self: Any, inputs: Any) -> Any:
        loss, count = loss_sum(self, inputs)
        return (loss * float("nan") if self.state.global_step == 5 else loss), count

    tuner = shop.tuner(shop.layer(training={**TRAINING, "save_every": "auto"}))
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "loss_sum", broken)
        with pytest.raises(Diverged, match=r"is nan at step 6, rows \d+(, \d+){5} of the training set") as diverged:
            tuner.run()
    assert "The state after step 5 is saved." in diverged.value.message
    assert "learning_rate" in str(diverged.value.hint)
    folder = tuner.folder.output_dir
    kept = Checkpoints(folder / "run" / "checkpoints").newest(pytest.fail)
    assert kept is not None
    assert kept.step == 5
    assert all(bool(tensor.isfinite().all()) for tensor in torch.load(kept.folder / "weights.pt", weights_only=True).values())
    result, _ = resumed(folder, shop)
    assert weights(result) == weights(whole)
    assert result.training["real_tokens"] == whole.training["real_tokens"]


def test_adalora_goes_on_with_the_importance_it_had_measured(shop: Workshop) -> None:
    layers = [shop.layer(training={**TRAINING, "epochs": 4}, method={"kind": "adalora", "r": 2}) for _ in range(2)]
    undisturbed, tuner = map(shop.tuner, layers)
    undisturbed.train()
    for step in (2, 6, 10, 14):  # before ranks are given up, while they are, and after
        tuner.reporter.reporters.append(StopAt(step))
        with pytest.raises(Interrupted):
            tuner.train()
        tuner = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=shop.runtime)
    tuner.train()
    ours, theirs = ((run.folder.output_dir / "adapter_model.safetensors").read_bytes() for run in (tuner, undisturbed))
    assert ours == theirs


def test_a_training_that_is_complete_is_not_made_again(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer())
    tuner.train()
    with pytest.raises(CannotResume, match="is already complete"):
        LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=shop.runtime).train()
