"""The best step of a training by its held-out loss: what is measured, chosen, kept over a kill, and said."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks, job, log
from lengths import few
from pico import apart
from safetensors.torch import load_file
from several_processes import TOLERANCE, events_of
from workshop import StopAt, Workshop, notices, recorded

from finetune import LLMFineTuner, registry
from finetune.errors import Interrupted, RecipeError
from finetune.events import HeldOutLoss, Recorder, TrainingFinished, read_events
from finetune.hardware.machine import inspect
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.recipe import Recipe
from finetune.run.finetuner import RunResult
from finetune.training.held_out import ENDED
from finetune.training.kept_step import in_words
from finetune.training.saved_tensors import WEIGHTS

BEST = {"epochs": 5, "batch_size": 4, "learning_rate": 0.01, "scheduler": "constant", "evaluate_every": 3, "keep": "best"}
STEPS = 25
FAST = {"rows": 2, "max_new_tokens": 2, "speed": False}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Its rows have nothing in common: whatever is learned of some says nothing of the others."""
    made = Workshop(tmp_path_factory.mktemp("best"))
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(66)]
    pairs = zip(words[::2], words[1::2], strict=True)
    lines = [{"prompt": f"say {one}", "completion": other, "kind": "ab"[place % 2]} for place, (one, other) in enumerate(pairs)]
    made.rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def layer(shop: Workshop, **changes: Any) -> dict[str, Any]:
    training = {**BEST, **changes.pop("training", {})}
    return shop.layer(training=training, benchmark=FAST, method={"kind": "lora", "dropout": 0.2}, **changes)


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> RunResult:
    return shop.tuner(layer(shop)).run()


def weights(result: RunResult | Path) -> dict[str, torch.Tensor]:
    folder = result if isinstance(result, Path) else result.output_dir
    return load_file(next(folder.glob("*.safetensors")))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def loss_of(folder: Path, rows: Any, shop: Workshop) -> float:
    """Mean loss per supervised token of a saved model, as transformers computes it, a row at a time."""
    model = load_model(locate(str(folder), shop.runtime, Recorder()), inspect(shop.runtime), merge=False)
    total = count = 0.0
    for row in rows:
        labels = torch.tensor([row["labels"]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
        number = int((labels[:, 1:] != -100).sum())
        total, count = total + float(loss) * number, count + number
    return total / count


@pytest.mark.parametrize("name", registry.names("methods"))
def test_with_every_method_the_saved_model_is_that_of_the_best_step(name: str, shop: Workshop) -> None:
    method = {"kind": name} | ({} if name == "full" else {"dropout": 0.0})
    tuner = shop.tuner({**layer(shop), "method": method}, {"training": {"keep_checkpoints": True}})
    result = tuner.run()
    measured, kept = recorded(tuner).of(HeldOutLoss), result.scores["kept"]
    steps = [each.step for each in measured]
    assert steps == [*range(3, STEPS, 3), STEPS], "the last step too"
    settled = tuner.context.method.settled_at(tuner.recipe.method, STEPS)
    best = min((each for each in measured if each.step >= settled), key=lambda each: each.loss)
    assert (kept["step"], kept["loss"], kept["last_step"]) == (best.step, best.loss, STEPS)
    assert name == "adalora" or kept["step"] < STEPS, "these rows are soon learned by heart"
    deciding = tuner.data.deciding
    assert deciding is not None
    assert loss_of(result.output_dir, deciding, shop) == pytest.approx(kept["loss"], abs=0.02 if name == "qlora" else 1e-5)
    saved = torch.load(tuner.folder.checkpoints / f"step-{best.step:08d}" / WEIGHTS, weights_only=True)
    assert saved
    said = f"Kept: step {best.step} of {STEPS}, held-out loss"
    assert said in "\n".join(notices(tuner))
    assert in_words(kept) in (result.output_dir / "README.md").read_text()
    report = (result.output_dir / "run" / "report.html").read_text()
    assert "Held-out loss" in report
    assert in_words(kept) in report


def test_rows_are_taken_from_training_the_same_each_time_and_nothing_else_is(shop: Workshop) -> None:
    plain, one, two = (shop.tuner(each) for each in (shop.layer(), layer(shop), layer(shop)))
    taken = one.prepare_data()
    assert taken.deciding is not None

    def rows(part: Any) -> set[tuple[int, ...]]:
        return {tuple(row["input_ids"]) for row in part}

    assert rows(plain.prepare_data().held_out) == rows(taken.held_out), "the benchmark's rows stay what they are"
    assert rows(plain.data.train) == rows(taken.train) | rows(taken.deciding)
    assert not rows(taken.train) & rows(taken.deciding)
    assert rows(taken.deciding) == rows(two.prepare_data().deciding)
    report = taken.report
    assert (report.deciding, report.train, report.held_out) == (8, 17, 8)
    assert report.deciding_tokens == sum(taken.deciding["length"])
    assert report.deciding_supervised == 8 * 7
    assert plain.data.report.deciding == 0


def test_measuring_changes_no_weight(shop: Workshop) -> None:
    last = [{"keep": "last", "evaluate_every": every, "epochs": 2} for every in (1, 5)]
    one, two = (shop.tuner(layer(shop, training=changes)).run() for changes in last)
    assert same(weights(one), weights(two)), "with dropout"
    assert one.scores["kept"]["step"] == 10
    assert "lowest was" in in_words(one.scores["kept"]) or one.scores["kept"]["best_step"] == 10


@pytest.mark.parametrize("step", [4, 10])
def test_a_run_that_is_stopped_between_two_measurements_ends_like_one_that_was_not(step: int, shop: Workshop, whole: RunResult) -> None:
    tuner = shop.tuner(layer(shop))
    tuner.reporter.reporters.append(StopAt(step))
    with pytest.raises(Interrupted):
        tuner.run()
    finished = recorded(tuner).of(TrainingFinished)[-1]
    assert finished.kept is not None
    best = min(recorded(tuner).of(HeldOutLoss), key=lambda each: each.loss)
    assert finished.kept["step"] == best.step, "what is in the folder meanwhile is the best so far"
    result = LLMFineTuner.unfinished(tuner.folder.output_dir, reporter=Recorder(), runtime=shop.runtime).run()
    assert same(weights(result), weights(whole))
    assert result.scores["kept"] == whole.scores["kept"]
    events = [record["step"] for record in read_events(tuner.folder.events) if record["event"] == "held_out"]
    assert events == [*range(3, STEPS, 3), STEPS]


@pytest.mark.long
def test_a_killed_run_remembers_the_best_and_how_long_it_waited(forks: Forks, shop: Workshop) -> None:
    changes = {"patience": 3, "save_every": 2, "epochs": 10}
    undisturbed = layer(shop, training=changes)
    assert forks.run(job(shop, undisturbed)) == 0, log(shop)
    operations = int(log(shop).rpartition("file operations: ")[2])
    again = layer(shop, training=changes)
    assert forks.run(job(shop, again, kill_at=operations // 2)) == -9
    assert forks.run(job(shop, again)) == 0, log(shop)
    one, two = Path(undisturbed["output_dir"]), Path(again["output_dir"])
    assert same(weights(one), weights(two))
    kept = [json.loads((folder / "run" / "progress.json").read_text())["training"]["kept"] for folder in (one, two)]
    assert kept[0] == kept[1]
    assert kept[0]["stopped_after"] == 3


def test_a_training_that_ended_early_is_over_also_after_a_kill(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"patience": 2, "evaluate_every": 2, "epochs": 20}
    finished = shop.tuner(layer(shop, training=changes))
    whole = finished.run()
    kept = whole.scores["kept"]
    assert kept["stopped_after"] == 2
    assert kept["last_step"] == whole.training["steps"] == kept["step"] + 4 < kept["of"]
    assert f"Stopped early at step {kept['last_step']} of {kept['of']}" in "\n".join(notices(finished))
    tuner = shop.tuner(layer(shop, training=changes))
    with monkeypatch.context() as patch:
        patch.setattr("finetune.run.rounds.save_model", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            tuner.run()
    again = LLMFineTuner.unfinished(tuner.folder.output_dir, reporter=Recorder(), runtime=shop.runtime)
    assert again.resume_state is not None
    assert again.resume_state.step == again.resume_state.total_steps == kept["last_step"]
    result = again.run()
    assert same(weights(result), weights(whole))
    assert result.scores["kept"] == kept
    for total in ("steps", "real_tokens", "first_loss", "final_loss"):
        assert result.training[total] == whole.training[total]


def test_a_damaged_best_checkpoint_is_named_and_the_last_step_kept(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.training.held_out import WatchHeldOut

    took = WatchHeldOut.take

    def spoiled(self: Any, model: Any, store: Any, **more: Any) -> Any:
        path = store.folder / f"step-{self.best_step:08d}" / WEIGHTS
        path.write_bytes(path.read_bytes()[:-1])
        return took(self, model, store, **more)

    monkeypatch.setattr(WatchHeldOut, "take", spoiled)
    tuner = shop.tuner(layer(shop))
    result = tuner.run()
    assert result.scores["kept"]["step"] == STEPS
    assert "the best, cannot be used (weights.pt" in "\n".join(notices(tuner))


def test_short_runs_keep_the_last_step_and_all_their_rows_and_say_so(shop: Workshop) -> None:
    short = [
        ({"evaluate_every": "auto", "epochs": 1, "batch_size": 4}, "5 steps are too few: 20 are enough"),
        ({"evaluate_every": 50, "epochs": 5}, "it would be measured once in 25 steps"),
    ]
    for changes, why in short:
        tuner = shop.tuner(layer(shop, training=changes))
        plan = tuner.plan()
        assert why in "\n".join(notices(tuner))
        assert (plan.rows, tuner.data.report.deciding, tuner.data.deciding) == (25, 0, None)
        assert (tuner.recipe.training.keep, tuner.recipe.training.evaluates) == ("last", False)
        assert not [note for note in plan.notes if "held-out loss" in note]
    few = shop.tuner(layer(shop, dataset={**layer(shop)["dataset"], "samples": 20}))
    few.prepare_data()
    assert "only 5 rows could be kept from training to measure it on, and it takes 8" in "\n".join(notices(few))
    assert few.data.report.train == 15


def test_the_plan_counts_what_is_measured_and_kept(shop: Workshop) -> None:
    with_best, without = shop.tuner(layer(shop)).plan(), shop.tuner(shop.layer(training={"epochs": 5, "batch_size": 4})).plan()
    assert (
        "The held-out loss is measured every 3 steps on 8 rows that are not trained on; the weights of the lowest are kept."
        in with_best.notes
    )
    assert with_best.disk_bytes > without.disk_bytes
    assert with_best.steps == STEPS
    twice = shop.tuner(layer(shop, training={"evaluate_every": 1})).plan()
    assert twice.seconds > with_best.seconds


def taught(case: str, shop: Workshop) -> dict[str, Any]:
    """A student of one layer, and what its teacher, or each of two, is."""
    teachers: dict[str, Any] = {
        "by one": {"teacher": str(shop.model)},
        "told more": {"teacher": {"source": str(shop.model), "system": "be kind"}},
        "each its own rows": {
            "teacher": None,
            "teachers": [{"source": str(shop.model), "rows": {"column": "kind", "equals": kind}} for kind in ("a", "b")],
        },
    }
    method = {"kind": "lora", "dropout": 0.0}
    return shop.distilling(training=BEST, benchmark=FAST, method=method, model=str(shop.smaller_model()), **teachers[case])


CACHED = [("by one", ["hidden", "gradient"]), ("told more", ["hidden"]), ("each its own rows", ["hidden"])]


@pytest.mark.parametrize(("case", "caches"), few(CACHED, CACHED[0]))
def test_a_student_is_measured_by_its_own_loss_whether_the_teacher_is_cached_or_not(case: str, caches: list[str], shop: Workshop) -> None:
    found = []
    for kind in ("none", *caches):
        tuner = shop.tuner(taught(case, shop), {"distillation": {"cache": kind}, "training": {"epochs": 2}})
        tuner.train()
        found.append(recorded(tuner).of(HeldOutLoss))
        finished = recorded(tuner).of(TrainingFinished)[-1]
        assert finished.kept is not None
        assert finished.kept["step"] == min(found[-1], key=lambda each: each.loss).step
    online, *others = found
    for other in others:
        for asked, cached in zip(online, other, strict=True):
            assert cached.loss == pytest.approx(asked.loss, abs=2e-4)
            assert cached.parts["kl"] == pytest.approx(asked.parts["kl"], abs=2e-4)
            assert abs(cached.loss - cached.parts["ce"]) > 0.01, "not the cross-entropy alone"


@pytest.mark.long
@pytest.mark.parametrize("shard", ["no", "yes"])
def test_two_processes_measure_and_keep_what_one_does(shard: str, forks: Forks, shop: Workshop) -> None:
    layers = [layer(shop, training={"patience": 2, "learning_rate": 3e-3}) for _ in range(2)]
    for processes, each in enumerate(layers, 1):
        each["method"] = {"kind": "lora", "dropout": 0.0}
        assert forks.run(job(shop, each, processes=processes, shard=shard if processes == 2 else "no")) == 0, log(shop)
    one, two = ([record for record in read_events(events_of(each)) if record["event"] in ("held_out", "training")] for each in layers)
    assert len(one) == len(two) > 3
    for ours, theirs in zip(one[:-1], two[:-1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert one[-1]["kept"]["step"] == two[-1]["kept"]["step"]
    assert apart(*(weights(Path(each["output_dir"])) for each in layers)) < TOLERANCE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"keep": "best"}, "distillation": {"rounds": [3, 2]}}, "has `training.keep: best`, which looks at one training"),
        ({"training": {"patience": 2}, "distillation": {"until": {"retention": 0.9}}}, "has `training.patience`"),
        ({"training": {"keep": "worst"}}, "training.keep must be"),
        ({"training": {"patience": 0}}, "training.patience must be"),
    ],
)
def test_what_cannot_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers({"approach": "distillation"}, changes)
    assert words in refused.value.message


def test_the_manifest_of_an_early_end_says_so(shop: Workshop) -> None:
    changes = {"patience": 1, "evaluate_every": 2, "epochs": 20, "keep_checkpoints": True}
    tuner = shop.tuner(layer(shop, training=changes))
    tuner.run()
    newest, *older = sorted(tuner.folder.checkpoints.glob("step-*/manifest.json"), reverse=True)
    assert json.loads(newest.read_text())[ENDED]
    assert not any(ENDED in json.loads(path.read_text()) for path in older)
