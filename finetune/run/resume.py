"""Resuming an interrupted run: what is left of it, whether it can continue, and from where. No torch before that.

left = find("./finetuned_model")           # None: finished, or no run at all
left.progress()                            # "step 120 of 300, saved 5 minutes ago"
left, start = take_up(context, folder)     # what is left, and the checkpoint to train on from or None
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from finetune.errors import BadInput, CannotResume, FolderInUse, Interrupted
from finetune.events import Notice, Resumed
from finetune.foreign import reading
from finetune.formatting import counted, enumerated, roughly, spoken
from finetune.planning.checks import check_data
from finetune.recipe import Recipe, dotted
from finetune.run.records import environment, open_records
from finetune.run_context import RunContext
from finetune.run_folder import BENCHMARK, FINISHED, ROWS, TRAINING, UPLOAD, RunFolder
from finetune.system.shell import quoted
from finetune.training.checkpoints import Checkpoint, Checkpoints
from finetune.training.step_count import steps_of

if TYPE_CHECKING:
    from finetune.training.loop import Outcome

EXACT = ("torch", "transformers", "peft")  # libraries whose major version decides what a checkpoint means
MACHINE: dict[str, Callable[[Any], str]] = {  # what of a machine decides the digits, in words
    "device": lambda name: f"the device {name}",
    "dtype": str,
    "threads": lambda number: counted(number, "thread"),
}
MODEL_FACTS = {"revision": "revision", "bytes": "size", "identity": "content"}  # older versions wrote down no identity and no teacher
# Of a data report, for runs of versions that wrote down no `dataset_contents`.
COUNTED = ("train", "held_out", "train_tokens", "supervised_tokens", "histogram")
AFTERWARDS = (
    "output_dir",
    "benchmark",
    "upload",
    "training.save_every",
    "training.keep_checkpoints",
    "training.report_to",
)  # keys that change no weight
NEW_RUN = "Start again with `finetune-cli run RECIPE` in a new output folder, or undo the change."


@dataclass(frozen=True)
class Unfinished:
    """What is left of a run: it is at `stage`, and `step` of `total_steps` were saved at `saved_at` after `seconds` of training.

    Steps and seconds are those of a round, where there are several. At the stage ROWS the steps are rows that the teacher wrote.
    """

    folder: RunFolder
    stage: str
    step: int = 0
    total_steps: int = 0
    saved_at: float = 0.0
    seconds: float = 0.0
    seconds_per_step: float = 0.0  # of the last steps; 0 where it was not noted
    round: int = 1  # that the steps belong to
    rounds: int = 1

    @property
    def has_something(self) -> bool:
        """Whether there is something to go on from: saved steps, a round, a finished training, or rows that a teacher wrote."""
        return self.stage != TRAINING or bool(self.step) or self.round > 1 or self.folder.synthetic.is_file()

    @property
    def seconds_left(self) -> float:
        """Seconds of training left, as fast as the last steps were."""
        if not self.step:
            return float("nan")
        return (self.seconds_per_step or self.seconds / self.step) * (self.total_steps - self.step)

    def progress(self) -> str:
        """How far it came, for people."""
        if self.stage == ROWS:
            return f"{self.step:,} of {self.total_steps:,} rows written" if self.total_steps else "no rows written yet"
        if self.stage == BENCHMARK:
            return "trained; benchmark not run yet"
        if self.stage == UPLOAD:
            return "benchmark done; not uploaded yet"
        of_rounds = f"round {self.round} of {self.rounds}, " if self.rounds > 1 else ""
        if not self.step and self.round > 1:
            return f"{of_rounds}nothing of it saved yet"
        if not self.step:
            return "rows written; nothing of the training saved yet" if self.has_something else "nothing saved yet"
        return f"{of_rounds}step {self.step:,} of {self.total_steps:,}, saved {spoken(time.time() - self.saved_at)} ago"


def find(output_dir: str | Path) -> Unfinished | None:
    """What is left of the run in a folder; None if it is finished or there is none. The contents of checkpoints are not looked at."""
    folder = RunFolder(output_dir)
    stage = folder.stage
    if stage in (None, FINISHED):
        return None
    if stage == ROWS:
        told = folder.read_json(folder.progress)
        with reading(folder.progress, CannotResume, hint=NEW_RUN):
            return Unfinished(folder, ROWS, int(told.get("rows", 0)), int(told.get("wanted", 0)))
    if stage != TRAINING:
        return Unfinished(folder, str(stage))
    saved = next((found for found in Checkpoints(folder.checkpoints).all() if _of_this_round(folder, found)), None)
    number, of = _round(folder)
    return Unfinished(folder, TRAINING, round=number, rounds=of) if saved is None else _of(folder, saved)


def _round(folder: RunFolder) -> tuple[int, int]:
    """The number of the round that a run is in, and of how many."""
    if not folder.progress.is_file():
        return 1, 1
    told = folder.read_json(folder.progress)
    with reading(folder.progress, CannotResume, hint=NEW_RUN):
        return len(told.get("rounds", [])) + 1, int(told.get("of_rounds", 1))


def _of_this_round(folder: RunFolder, saved: Checkpoint) -> bool:
    """Not of the round before, which a run that was killed may not have removed."""
    with reading(saved.folder, CannotResume, hint=NEW_RUN):
        return bool(saved.facts.get("made_with", {}).get("round", 1) == _round(folder)[0])


def _of(folder: RunFolder, saved: Checkpoint) -> Unfinished:
    facts = saved.facts
    with reading(saved.folder, CannotResume, hint=NEW_RUN):
        done, pace = float(facts["seconds"]), float(facts.get("seconds_per_step", 0.0))
        return Unfinished(folder, TRAINING, saved.step, int(facts["total_steps"]), float(facts["saved_at"]), done, pace, *_round(folder))


def unfinished_runs(where: Path) -> list[Unfinished]:
    """Runs in the folders of `where` that could go on, latest first; those that somebody works on are left out."""
    places = sorted(filter(Path.is_file, where.glob("*/run/recipe.yaml")), key=lambda path: -path.stat().st_mtime)
    return [left for path in places if (left := _free_and_unfinished(path.parent.parent)) is not None]


def _free_and_unfinished(output_dir: Path) -> Unfinished | None:
    try:
        left = find(output_dir)
        if left is not None:
            left.folder.check_unclaimed()
    except (FolderInUse, BadInput, OSError):
        return None
    return left


def take_up(context: RunContext, folder: RunFolder) -> tuple[Unfinished, Checkpoint | None]:
    """What is left of an interrupted run, and the checkpoint to train on from; claims its folder, and says what will be done.

    Raises CannotResume where nothing is left, or data, model, recipe or libraries are no longer those the run began with, FolderInUse, and
    what `check_data` raises.
    """
    check_data(context)
    folder.claim()
    open_records(context.reporter, folder)
    left = find(folder.output_dir)
    if left is None:
        raise nothing_left(folder)
    _refuse_changes(context, folder)
    start = None
    if left.stage == TRAINING:
        start = Checkpoints(folder.checkpoints).newest(lambda text: context.reporter.report(Notice(text, "warning")))
    if start is not None and not _of_this_round(folder, start):
        Checkpoints(folder.checkpoints).clear()
        start = None
    if start is not None:
        with reading(start.folder, CannotResume, hint=NEW_RUN):
            _refuse_recipe(start.facts["made_with"]["recipe"], context.recipe)
    elif left.stage in (BENCHMARK, UPLOAD) and (made_with := folder.read_json(folder.progress).get("made_with")):  # not in older versions
        with reading(folder.progress, CannotResume, hint=NEW_RUN):
            _refuse_recipe(made_with["recipe"], context.recipe)
    context.reporter.report(Notice(_what_will_be_done(left, start)))
    if start is None and left.stage in (ROWS, TRAINING):
        context.reporter.report(Resumed(0, steps_of(context.recipe.training, len(context.data.train))))
    return left, start


def _what_will_be_done(left: Unfinished, start: Checkpoint | None) -> str:
    name = left.folder.output_dir
    if left.stage == BENCHMARK:
        return f"The training in {name} is complete; only the benchmark is left."
    if left.stage == UPLOAD:
        return f"The run in {name} is trained and measured; only the upload is left."
    if left.stage == ROWS:
        return f"The rows for {name} are written; the training begins."
    if start is None and left.round > 1:
        return f"Continuing {name} with round {left.round} of {left.rounds}, which begins."
    if start is None:
        return f"There is no checkpoint in {name} to continue from; training starts again at step 1."
    saved = _of(left.folder, start)
    if saved.step == saved.total_steps:
        whole = "training" if saved.round == saved.rounds else f"round {saved.round}"
        left_to_do = "only saving the model and the benchmark are left" if saved.round == saved.rounds else "the next round follows"
        return f"All {saved.step:,} steps of the {whole} in {name} are saved; {left_to_do}."
    what = "this round" if saved.rounds > 1 else "training"
    return f"Continuing {name} after {saved.progress()}; {roughly(saved.seconds_left)} of {what} left."


def stopped(folder: RunFolder, outcome: Outcome) -> Interrupted:
    """What to raise where a person has stopped a training."""
    of_all = "" if outcome.complete else f" of {outcome.total_steps:,}"
    return Interrupted(
        f"Stopped after step {outcome.finished.steps:,}{of_all}; everything is saved in {folder.output_dir}.",
        hint=f"Continue: finetune-cli resume {quoted(folder.output_dir)}",
        saved=folder.output_dir,
    )


def training_complete(folder: RunFolder) -> CannotResume:
    return CannotResume(
        f"The training in {folder.output_dir} is already complete.",
        hint=f"Do the rest: finetune-cli resume {quoted(folder.output_dir)}",
    )


def nothing_left(folder: RunFolder) -> CannotResume:
    return CannotResume(
        f"The run in {folder.output_dir} is finished: there is nothing left to resume.",
        hint=f"Measure it again: finetune-cli benchmark {quoted(folder.output_dir)}",
    )


def drop_checkpoints(folder: RunFolder, *, keep: bool) -> None:
    """Remove them, unless they are to stay, once the training is noted as complete; also after a run that was killed between the two."""
    if folder.stage not in (None, TRAINING) and not keep:
        Checkpoints(folder.checkpoints).clear()
        rmtree(folder.rounds, ignore_errors=True)


def what_decides(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe, dotted, that the trained weights depend on."""
    return {key: value for key, value in dotted(recipe.model_dump(mode="json")) if not key.startswith(AFTERWARDS)}


def _refuse_recipe(then: Mapping[str, Any], recipe: Recipe) -> None:
    now = what_decides(recipe)
    then = {**{key: value for key, value in what_decides(Recipe()).items() if key in now}, **then}  # older versions had fewer keys
    changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise CannotResume(
            f"{key} is {now.get(key)} in run/recipe.yaml, and the run began with {then.get(key)}: it cannot continue with another value.",
            hint=NEW_RUN,
        )


def _refuse_changes(context: RunContext, folder: RunFolder) -> None:
    """Data, model and library versions against those that the run wrote down when it began."""
    if not folder.environment.is_file():
        return  # it was interrupted while it wrote down how it began
    with reading(folder.environment, CannotResume, hint=NEW_RUN):
        then = folder.read_json(folder.environment)
        if "versions" in then:  # else its rows were not there yet
            now = environment(context)
            _compare_rows(context, folder, then, now)
            _compare(context, then, now)


def _compare_rows(context: RunContext, folder: RunFolder, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Another version of the program has other fingerprints of the same rows: what counts is what is learned from them."""
    if then["dataset_fingerprint"] == now["dataset_fingerprint"] or then.get("dataset_contents") == now["dataset_contents"]:
        return
    report, known = context.data.report.to_dict(), folder.known(folder.data_report)
    same = known and _first_texts(known) == _first_texts(report) and all(known.get(name) == report[name] for name in COUNTED)
    if "dataset_contents" in then or not same:
        began, here = then["versions"].get("finetune-cli"), now["versions"]["finetune-cli"]
        other = f", or version {here} reads them in another way than {began}" if began != here else ""
        raise CannotResume(f"The rows of {context.recipe.dataset.source} have changed since the run began{other}.", hint=NEW_RUN)
    text = "The run was begun by an older version of the program. Its rows count as unchanged: there are as many, with the same lengths."
    context.reporter.report(Notice(text, "warning"))


def _first_texts(report: Mapping[str, Any]) -> list[str]:
    return ["".join(piece["text"] for piece in row) for row in report["examples"]]


def _compare(context: RunContext, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    pairs = [(role, then.get(role) or {}, now[role] or {}) for role in ("model", "teacher")]
    pairs += [("teacher", *each) for each in zip(then.get("teachers", []), now.get("teachers", []), strict=False)]
    for role, began, here in pairs:
        for fact, what in MODEL_FACTS.items():
            if fact in began and began[fact] != here.get(fact):
                raise CannotResume(f"The {role} {began['name']} has changed since the run began: its {what} differs.", hint=NEW_RUN)
    differs = {name: (then["versions"].get(name), now["versions"].get(name)) for name in EXACT}
    for name, (before, here) in differs.items():
        if before and here and before.partition(".")[0] != here.partition(".")[0]:
            raise CannotResume(
                f"The run began with {name} {before}, and {here} is installed.", hint=f"Install it: pip install {name}=={before}"
            )
    others = [(_version(name, before), _version(name, here)) for name, (before, here) in differs.items() if before != here]
    others += [(said(then["machine"].get(what)), said(now["machine"][what])) for what, said in MACHINE.items() if _moved(then, now, what)]
    if others:
        before, here = map(enumerated, zip(*others, strict=True))
        text = f"The run began with {before}, and goes on with {here}: its result will not match an uninterrupted run digit for digit."
        context.reporter.report(Notice(text, "warning"))


def _version(name: str, found: str | None) -> str:
    return f"{name} {found}" if found else f"no {name}"


def _moved(then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> bool:
    before, here = then["machine"].get(what), now["machine"][what]
    if what == "threads" and (before is None or now["machine"]["device"] != "cpu"):
        return False  # an older version did not say, and a GPU does not care
    return bool(before != here)
