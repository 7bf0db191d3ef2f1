"""Checkpoints as files: whole or absent, the last two and the best kept, the damaged named; when to save; unfinished runs found."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import IO, Any

import pytest

from finetune.errors import DiskFull, FinetuneError
from finetune.run.resume import find, unfinished_runs
from finetune.run_folder import RunFolder
from finetune.training.checkpoints import Checkpoints
from finetune.wizard import unfinished
from finetune.wizard.asking.prompter import ScriptedPrompter

FACTS = {"total_steps": 9, "seconds": 60.0, "made_with": {}}


def content(text: str = "weights") -> dict[str, Any]:
    return {"a.bin": lambda file: file.write(text.encode()), "b.bin": lambda file: file.write(b"1") + file.write(b"2")}


def write(store: Checkpoints, step: int, loss: float | None = None) -> None:
    store.write(step, {**FACTS, "loss": loss}, content(f"weights of {step}"))


def steps(store: Checkpoints) -> list[int]:
    return [checkpoint.step for checkpoint in store.all()]


def test_what_is_written_comes_back_with_its_facts(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "run" / "checkpoints")
    write(store, 4, 1.5)
    found = store.newest(pytest.fail)
    assert found is not None
    assert (found.step, found.facts["loss"], found.bytes) == (4, 1.5, len("weights of 4") + 2)
    assert (found.folder / "b.bin").read_bytes() == b"12"
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".")]


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.5, 1.2], start=1):
        write(store, step, loss)
    assert steps(store) == [5, 4, 2]
    write(store, 6, 0.5)
    assert steps(store) == [6, 5]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_keeps_the_newest_and_says_how_much_is_needed(number: int, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    write(store, 1)
    write(store, 2)

    def full(file: IO[bytes]) -> None:
        file.write(b"0" * 3 * 10**6)
        raise OSError(number, "full")

    with pytest.raises(DiskFull, match=r"The checkpoint of step 3 .* needs about 3 MB") as raised:
        store.write(3, FACTS, {"a.bin": full})
    assert "resume" in str(raised.value.hint)
    assert steps(store) == [2], "the older one made room for a second attempt"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert store.newest(pytest.fail)


def test_an_older_checkpoint_makes_room_for_a_new_one(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    write(store, 1)
    write(store, 2)

    def one_at_a_time(file: IO[bytes]) -> None:
        if steps(store) == [2, 1]:
            raise OSError(errno.ENOSPC, "full")
        file.write(b"small")

    store.write(3, FACTS, {"a.bin": one_at_a_time})
    assert steps(store) == [3, 2]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def denied(file: IO[bytes]) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        Checkpoints(tmp_path).write(3, FACTS, {"a.bin": denied})
    assert not list(tmp_path.iterdir())


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    (tmp_path / ".step-00000007.part").mkdir()
    assert store.newest(pytest.fail) is None
    write(store, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008"]


def run_in(folder: Path, *, step: int = 0, stage: str = "training") -> RunFolder:
    run = RunFolder.create(folder)
    run.recipe.write_text("seed: 1\n")
    run.write_stage(stage)
    if step:
        write(Checkpoints(run.checkpoints), step, 1.0)
    run.release()
    return run


def test_unfinished_runs_are_found_with_their_progress(tmp_path: Path) -> None:
    run_in(tmp_path / "half", step=3)
    run_in(tmp_path / "bare")
    run_in(tmp_path / "trained", stage="benchmark")
    run_in(tmp_path / "done", stage="finished")
    claimed = run_in(tmp_path / "busy", step=2)
    claimed.claim()
    (tmp_path / "not-a-run").mkdir()
    found = {left.folder.output_dir.name: left.progress() for left in unfinished_runs(tmp_path)}
    claimed.release()
    assert found.pop("half") == "step 3 of 9, saved less than a minute ago"
    assert found == {"bare": "nothing saved yet", "trained": "trained; benchmark not run yet"}
    half = find(tmp_path / "half")
    assert half is not None
    assert half.seconds_left == pytest.approx(60 / 3 * 6)


def test_a_manifest_of_another_time_does_not_stop_the_wizard(tmp_path: Path) -> None:
    run = run_in(tmp_path / "odd", step=3)
    (run.checkpoints / "step-00000003" / "manifest.json").write_text(json.dumps({"version": 1, "step": 3, "files": {}}))
    assert unfinished_runs(tmp_path) == []


def test_the_wizard_offers_to_go_on_first(tmp_path: Path) -> None:
    run_in(tmp_path / "finetuned_model", step=3)
    prompter = ScriptedPrompter({}, otherwise_default=True)
    left = unfinished.ask(prompter, tmp_path)
    assert left is not None
    assert left.folder.output_dir == tmp_path / "finetuned_model"
    assert unfinished.ask(ScriptedPrompter({"unfinished": "new"}), tmp_path) is None
    nothing = ScriptedPrompter({})
    assert unfinished.ask(nothing, tmp_path / "finetuned_model") is None
    assert nothing.asked == []


def test_a_folder_with_an_unfinished_run_is_not_used_for_another_and_resume_is_named(tmp_path: Path) -> None:
    run_in(tmp_path / "model", step=3)
    with pytest.raises(FinetuneError, match="not empty") as refused:
        RunFolder.create(tmp_path / "model")
    assert f"finetune-cli resume {tmp_path / 'model'}" in str(refused.value.hint)


@pytest.mark.parametrize("best", [2.0, 0.0])
def test_the_best_by_held_out_loss_is_kept_even_on_a_full_disk(best: float, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for step, held_out in [(1, 3.0), (2, best), (3, None), (4, None), (5, None)]:
        store.write(step, {**FACTS, "loss": 9.0 - step} | ({} if held_out is None else {"held_out": held_out}), content())
    assert steps(store) == [5, 4, 2]

    def full(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull):
        store.write(6, FACTS, {"a.bin": full})
    assert steps(store) == [5, 2]
