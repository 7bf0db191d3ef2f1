"""LLMFineTuner: executes a recipe, stage by stage; every stage writes its files into the output folder and reports events.

tuner = LLMFineTuner(Recipe.from_layers({"training": {"epochs": 1}}))
tuner.check()
tuner.train()
tuner.benchmark()          # or tuner.run() for all of it
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.errors import HardwareError, Interrupted, RecipeError
from finetune.events import (
    BenchmarkFinished,
    Fanout,
    JsonLines,
    Recorder,
    Reporter,
    Resumed,
    StageFinished,
    StageStarted,
)
from finetune.formatting import quoted
from finetune.recipe import Recipe, StudentSpec
from finetune.run_folder import (
    BENCHMARK,
    FINISHED,
    TRAINING,
    UPLOAD,
    RunFolder,
)
from finetune.runtime import RuntimeOptions

if TYPE_CHECKING:
    from finetune.benchmark.scoring import Scores
    from finetune.data.prepare import PreparedData
    from finetune.hardware.machine import Machine
    from finetune.models.location import LocatedModel
    from finetune.planning.estimate import Plan
    from finetune.run.resume import Unfinished
    from finetune.training.checkpoints import Checkpoint
    from finetune.training.loop import Outcome


@dataclass(frozen=True)
class RunResult:
    """What a run left: `scores` is benchmark.json, `training` the totals of the training."""

    output_dir: Path
    scores: dict[str, Any]
    training: dict[str, Any]


class LLMFineTuner:
    """One run of one recipe; attributes fill up as its stages go by."""

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any] | None = None,
        *,
        reporter: Reporter | None = None,
        runtime: RuntimeOptions | None = None,
    ) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_layers(recipe or {})
        self.runtime = runtime or RuntimeOptions()
        self.reporter = Fanout(reporter or Recorder())
        self.folder = RunFolder(self.recipe.output_dir)
        self.model: Any = None
        self.teacher: Any = None
        self.outcome: Outcome | None = None
        self.before: Scores | None = None
        self.taught: Scores | None = None
        self.left: Unfinished | None = None
        self.planned: Plan | None = None

    @classmethod
    def of_run(cls, output_dir: str | Path, *, reporter: Reporter | None = None, runtime: RuntimeOptions | None = None) -> LLMFineTuner:
        """The tuner of a finished run; raises BadInput if there is none."""
        folder = RunFolder.of(output_dir)
        return cls(Recipe.load(folder.recipe, layers=({"output_dir": str(folder.output_dir)},)), reporter=reporter, runtime=runtime)

    @classmethod
    def unfinished(cls, output_dir: str | Path, *, reporter: Reporter | None = None, runtime: RuntimeOptions | None = None) -> LLMFineTuner:
        """The tuner of an interrupted run: run() does what is left of it. Raises BadInput if there is no run, or if it is finished."""
        from finetune.run.resume import find, nothing_left

        tuner = cls.of_run(output_dir, reporter=reporter, runtime=runtime)
        tuner.folder.check_unclaimed()
        tuner.left = find(output_dir)
        if tuner.left is None:
            raise nothing_left(tuner.folder)
        return tuner

    # What the stages stand on; each is found when it is first needed.

    @property
    def distils(self) -> bool:
        return self.recipe.approach == "distillation"

    @property
    def student_is_made(self) -> bool:
        return isinstance(self.recipe.model, StudentSpec)

    @cached_property
    def machine(self) -> Machine:
        from finetune.hardware.machine import inspect

        return inspect(self.runtime)

    @cached_property
    def method(self) -> Any:
        return registry.load("methods", self.recipe.method.kind)

    @cached_property
    def located(self) -> LocatedModel:
        """The model that is trained, on this disk (for a student made from its teacher: the teacher); fetched if it must be."""
        if self.student_is_made:
            return self.teacher_located
        return self._locate("model", str(self.recipe.model), self.method.load_in(self.recipe.method))

    @cached_property
    def teacher_located(self) -> LocatedModel:
        if self.recipe.teacher is None:
            raise RecipeError("A distillation needs a teacher.", hint="--set teacher=MODEL")
        return self._locate("teacher", self.recipe.teacher.source, self.recipe.teacher.load_in)

    @cached_property
    def tokenizer(self) -> Any:
        from finetune.models.load import load_tokenizer

        return load_tokenizer(self.located)

    @cached_property
    def data(self) -> PreparedData:
        return self.prepare_data()

    # The stages.

    def check(self) -> None:
        """Find everything that can be found before the long work; raises the error that says what to change."""
        from finetune.planning.plan import shape_of

        if self.left is None:
            self.folder.check_free()
        for problem in self.method.check(self.recipe.method, self.machine.device):
            raise HardwareError(problem)
        if self.recipe.training.report_to:
            from finetune.training.trackers import check_trackers

            check_trackers(self.recipe.training.report_to)
        self.check_upload()
        if self.distils and not self.student_is_made and self.located.pinned == self.teacher_located.pinned:
            raise RecipeError(
                f"Teacher and student are the same model, {self.located.name}.",
                hint="Make a smaller one from it: --set model.from_teacher.layers=0.67",
            )
        shape_of(self)

    def check_upload(self) -> None:
        """Raises UploadError, NotSignedIn, ReadOnlyToken or RepoExists if the result could not go where the recipe wants it uploaded."""
        if self.recipe.upload:
            from finetune.publish.upload import check_before_training

            adapter = self.method.footprint(self.recipe.method).adapter
            check_before_training(self.recipe, adapter=adapter, go_on=self.folder.output_dir if self.left else None)

    def check_data(self) -> None:
        """Raises RecipeError for too few optimizer steps for the method, or rows too long for a model; prepares the data."""
        from finetune.planning.plan import check_lengths
        from finetune.training.step_count import steps_of

        check_lengths(self)
        self.method.check_steps(self.recipe.method, steps_of(self.recipe.training, len(self.data.train)))

    def plan(self, *, measure: bool = False) -> Plan:
        """What the run will cost; prepares the data, writes nothing into the output folder.

        By arithmetic, or with `measure` from a few real steps, which takes up to 20 seconds.
        """
        from finetune.planning.plan import plan

        self.planned = plan(self, measure=measure)
        return self.planned

    def prepare_data(self) -> PreparedData:
        """Read, split and tokenise; the report goes to run/data_report.json once the run has a folder."""
        from finetune.data.prepare import prepare_data

        tokenizer = self.tokenizer
        with self.stage("data", "Preparing the data") as done:
            prepared = prepare_data(
                self.recipe.dataset,
                tokenizer,
                seed=self.recipe.seed,
                supervise=self.recipe.distillation.supervise if self.distils else "answers",
                runtime=self.runtime,
                reporter=self.reporter,
            )
            done(f"{prepared.report.train:,} rows to train on, {prepared.report.held_out:,} held out")
        return prepared

    def load_model(self) -> Any:
        """The model that will be trained: in memory, measured on the held-out rows, with the method attached."""
        if self.model is None:
            from finetune.run.loading import load_base, load_student

            self.model = load_student(self) if self.distils else load_base(self)
        return self.model

    def load_teacher_model(self, name: str | None = None) -> Any:
        """The teacher in memory: the recipe's, or the model called `name`, which then becomes the recipe's."""
        from finetune.models.load import load_model

        if name is not None:
            self.recipe = self.recipe.with_changes({"teacher": name})
            self.__dict__.pop("teacher_located", None)
            self.teacher = None
        if self.teacher is None:
            located = self.teacher_located
            load_in = self.recipe.teacher.load_in if self.recipe.teacher else None
            with self.stage("load", "Loading the teacher"):
                self.teacher = load_model(located, self.machine, load_in=load_in)
        return self.teacher

    def train(self) -> Outcome:
        """Train and save the result into the output folder; raises Interrupted, with what was saved, if a person stopped it."""
        from finetune.run.resume import training_complete, what_decides
        from finetune.training.checkpoints import Checkpoints
        from finetune.training.loop import train

        if self.left is not None and self.left.stage != TRAINING:
            raise training_complete(self.folder)
        start = self.begin()
        try:
            model = self.load_model()
            options: dict[str, Any] = {
                "callbacks": self.method.callbacks(model, self.recipe.method),
                "penalty": self.method.penalty(model, self.recipe.method),
            }
            if self.distils:
                from finetune.run.loading import lesson

                options["make_trainer"] = lesson(self).trainer
            options |= {"folder": self.folder.checkpoints, "start": start, "made_with": {"recipe": what_decides(self.recipe)}}
            with self.stage("training", "Training") as done:
                self.outcome = train(model, self.tokenizer, self.data.train, self.recipe, self.machine, self.reporter, **options)
                self.model = self.method.finish(model, self.recipe.method, self.reporter)
                self.save()
                finished = self.outcome.finished
                losses = f"loss {finished.first_loss:.2f} -> {finished.final_loss:.2f}"
                done(f"{finished.steps} steps, {losses}, {finished.tokens_per_second:,.0f} tokens/s")
            if self.outcome.complete:
                self.folder.write_stage(BENCHMARK, training=asdict(finished))
                if not self.recipe.training.keep_checkpoints:
                    Checkpoints(self.folder.checkpoints).clear()
        finally:
            self.folder.release()
        if self.outcome.stopped:
            of_all = "" if self.outcome.complete else f" of {self.outcome.total_steps}"
            raise Interrupted(
                f"Stopped after step {finished.steps}{of_all}; everything is saved in {self.folder.output_dir}.",
                hint=f"Go on: finetune-cli resume {quoted(self.folder.output_dir)}",
                saved=self.folder.output_dir,
            )
        return self.outcome

    def train_distillation(self, **changes: Any) -> Outcome:
        """Train the student on its teacher; keywords change the recipe first: temperature, alpha, objective, cache, epochs, ..."""
        from finetune.recipe import DistillationSpec

        ours = {name: value for name, value in changes.items() if name in DistillationSpec.model_fields}
        others = {name: value for name, value in changes.items() if name not in ours}
        self.recipe = self.recipe.with_changes({"approach": "distillation", "distillation": ours, "training": others})
        return self.train()

    def benchmark(self) -> dict[str, Any]:
        """Score the result on the held-out rows beside what it came from; writes run/benchmark.json, the report page and the card."""
        from finetune.benchmark.report import write_report
        from finetune.publish.card import write_card
        from finetune.run.loading import final_scores

        scores = final_scores(self)
        self.folder.write_json(self.folder.benchmark, scores)
        self.reporter.report(BenchmarkFinished(scores))
        write_card(self.folder)
        write_report(self.folder)
        if self.folder.stage == BENCHMARK:
            self.folder.write_stage(UPLOAD if self.recipe.upload else FINISHED)
        return scores

    def upload(self) -> None:
        """Publish the output folder as `recipe.upload` says."""
        from finetune.publish.upload import upload_folder

        if self.recipe.upload is None:
            raise RecipeError("The recipe names no repository to upload to.", hint="--set upload.repo=USER/NAME")
        upload_folder(self.folder.output_dir, self.recipe.upload, self.reporter)

    def run(self) -> RunResult:
        """All stages in order, or those that an interrupted run has left."""
        if self.left is None or self.left.stage == TRAINING:
            self.train()
        else:
            self.begin()
        with self.folder.claimed():
            measured = self.left is not None and self.left.stage == UPLOAD
            scores = self.folder.read_json(self.folder.benchmark) if measured else self.benchmark()
            if self.recipe.upload:
                self.upload()
        return RunResult(self.folder.output_dir, scores, self.folder.read_json(self.folder.progress)["training"])

    # What the stages share.

    def begin(self) -> Checkpoint | None:
        """Claim the output folder and write down, before the long work, what is going to happen; the checkpoint to go on from."""
        self.check()
        _ = self.data  # before the folder, so that data that cannot be used leaves nothing behind
        self.check_data()
        start = None
        if self.left is not None:
            from finetune.run.resume import take_up
            from finetune.training.step_count import steps_of

            start = take_up(self)
            if start is None and self.left.stage == TRAINING:
                self.reporter.report(Resumed(0, steps_of(self.recipe.training, len(self.data.train))))
        else:
            self.folder = RunFolder.create(self.recipe.output_dir)
            self.reporter.reporters.append(JsonLines(self.folder.events))
        if start is None and (self.left is None or self.left.stage == TRAINING):
            from finetune.run.records import write_records

            write_records(self)
        return start

    def save(self) -> None:
        """The trained weights (an adapter, or the whole model) and the tokenizer."""
        from finetune.hardware.machine import torch_dtype

        if not hasattr(self.model, "peft_config"):
            # Training kept float32; what is saved, and measured afterwards, is what the machine runs. Buffers such as the frequencies of
            # rotary positions stay in float32, as from_pretrained leaves them.
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(torch_dtype(self.machine))
        with self.folder.whole_model(needed=_bytes_to_save(self.model)) as folder:
            self.method.save(self.model, folder)
            self.tokenizer.save_pretrained(folder)

    def _locate(self, role: str, text: str, load_in: str | None) -> LocatedModel:
        from finetune.models.location import locate

        with self.stage("model", f"Finding the {role}") as done:
            found = locate(text, self.runtime, self.reporter, load_in=load_in)
            done(found.name)
        return found

    @contextmanager
    def stage(self, stage: str, title: str) -> Iterator[Any]:
        """Report a stage's begin and end; the yielded function takes its one-line summary."""
        summary = ""

        def done(text: str) -> None:
            nonlocal summary
            summary = text

        self.reporter.report(StageStarted(stage, title))
        began = time.perf_counter()
        yield done
        self.reporter.report(StageFinished(stage, round(time.perf_counter() - began, 3), summary))


def _bytes_to_save(model: Any) -> int:
    """About the size of a model on disk: of its adapter, or of everything."""
    return sum(
        parameter.numel() * parameter.element_size()
        for parameter in model.parameters()
        if parameter.requires_grad or not hasattr(model, "peft_config")
    )
