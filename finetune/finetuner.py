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
from finetune.errors import Interrupted
from finetune.events import DataPrepared, Fanout, JsonLines, ModelReady, Notice, Recorder, Reporter, StageFinished, StageStarted
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

if TYPE_CHECKING:
    from finetune.benchmark.run import Scores
    from finetune.data.prepare import PreparedData
    from finetune.models.machine import Machine
    from finetune.models.sources import LocatedModel
    from finetune.training.plan import Plan
    from finetune.training.session import Outcome


@dataclass(frozen=True)
class RunResult:
    """What a run left: `scores` is benchmark.json, `training` the totals of the training."""

    output_dir: Path
    scores: dict[str, Any]
    training: dict[str, Any]


class LLMFineTuner:
    """One run of one recipe; attributes fill up as its stages go by."""

    def __init__(
        self, recipe: Recipe | Mapping[str, Any] | None = None, *, reporter: Reporter | None = None, runtime: RuntimeOptions | None = None
    ):
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_layers(recipe or {})
        self.runtime = runtime or RuntimeOptions()
        self.reporter = Fanout(reporter or Recorder())
        self.folder = RunFolder(self.recipe.output_dir)
        self.model: Any = None
        self.outcome: Outcome | None = None
        self.before: Scores | None = None

    @classmethod
    def of_run(cls, output_dir: str | Path, *, reporter: Reporter | None = None, runtime: RuntimeOptions | None = None) -> LLMFineTuner:
        """The tuner of a finished run, with the model it left; raises BadInput if there is none."""
        folder = RunFolder.of(output_dir)
        tuner = cls(Recipe.load(folder.recipe, layers=({"output_dir": str(folder.output_dir)},)), reporter=reporter, runtime=runtime)
        tuner.load_result()
        return tuner

    # What the stages stand on; each is found when it is first needed.

    @cached_property
    def machine(self) -> Machine:
        from finetune.models.machine import inspect

        return inspect(self.runtime)

    @cached_property
    def method(self) -> Any:
        return registry.load("methods", self.recipe.method.kind)  # type: ignore[attr-defined]

    @cached_property
    def located(self) -> LocatedModel:
        """The base model on this disk; fetched if it must be."""
        from finetune.models.sources import locate

        with self._stage("model", "Finding the model") as done:
            found = locate(str(self.recipe.model), self.runtime, self.reporter, load_in=self.method.load_in(self.recipe.method))
            done(found.name)
        return found

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
        from finetune.errors import HardwareError

        self.folder.check_free()
        for problem in self.method.check(self.recipe.method, self.machine.device):
            raise HardwareError(problem)
        if self.recipe.upload:
            from finetune.hub.upload import check_upload

            check_upload(self.recipe.upload)
        _ = self.located

    def plan(self) -> Plan:
        """What the run will cost; prepares the data, trains nothing, writes nothing into the output folder."""
        from finetune.models.facts import describe
        from finetune.models.machine import free_disk
        from finetune.training.plan import estimate
        from finetune.training.shape import trainable_parameters

        facts = describe(self.located)
        trainable = trainable_parameters(self.located, self.method, self.recipe.method)
        room = free_disk(self.folder.output_dir)
        return estimate(self.recipe, facts, self.data.report, self.machine, trainable=trainable, free_disk=room)

    def prepare_data(self) -> PreparedData:
        """Read, split and tokenise; the report goes to run/data_report.json once the run has a folder."""
        from finetune.data.prepare import prepare_data

        tokenizer = self.tokenizer
        with self._stage("data", "Preparing the data") as done:
            prepared = prepare_data(self.recipe.dataset, tokenizer, seed=self.recipe.seed, runtime=self.runtime, reporter=self.reporter)
            report = prepared.report
            done(f"{report.train:,} rows to train on, {report.held_out:,} held out")
        return prepared

    def load_model(self) -> Any:
        """The base model in memory, measured on the held-out rows, with the method attached."""
        if self.model is None:
            from finetune.methods.base import MethodContext
            from finetune.models.load import load_model
            from finetune.training.session import trainable
            from finetune.training.steps import steps_of

            with self._stage("load", "Loading the model"):
                model = load_model(self.located, self.machine, load_in=self.method.load_in(self.recipe.method))
            self.before = self._base_scores(model)
            steps = steps_of(self.recipe.training, len(self.data.train))
            self.model = self.method.attach(model, self.recipe.method, MethodContext(total_steps=steps, seed=self.recipe.seed))
            parameters = sum(parameter.numel() for parameter in self.model.parameters())
            self.reporter.report(
                ModelReady("model", self.located.name, parameters, trainable(self.model), self.machine.dtype, self.machine.device)
            )
        return self.model

    def train(self) -> Outcome:
        """Train and save the result into the output folder; raises Interrupted, with what was saved, if a person stopped it."""
        from finetune.training.session import train

        self.begin()
        model = self.load_model()
        with self._stage("training", "Training") as done:
            callbacks = self.method.callbacks(model, self.recipe.method)
            self.outcome = train(
                model,
                self.tokenizer,
                self.data.train,
                self.recipe,
                self.machine,
                self.reporter,
                folder=self.folder.checkpoints,
                callbacks=callbacks,
            )
            self.save()
            finished = self.outcome.finished
            losses = f"loss {finished.first_loss:.2f} -> {finished.final_loss:.2f}"
            done(f"{finished.steps} steps, {losses}, {finished.tokens_per_second:,.0f} tokens/s")
        if self.outcome.stopped:
            raise Interrupted(
                f"Stopped after step {finished.steps}; the model as trained so far is in {self.folder.output_dir}.",
                hint=f"Measure it: finetune-cli benchmark {self.folder.output_dir}",
                saved=self.folder.output_dir,
            )
        return self.outcome

    def benchmark(self) -> dict[str, Any]:
        """Score the result on the held-out rows beside the base model's scores; writes run/benchmark.json and the model card."""
        from finetune.benchmark.run import benchmark_json, benchmark_model
        from finetune.events import BenchmarkFinished
        from finetune.hub.card import write_card

        before = self.before or self._base_scores(None)
        with self._stage("after", "Measuring the new model"):
            after = benchmark_model(
                self.model,
                self.tokenizer,
                self.data.held_out,
                self.recipe.benchmark,
                seed=self.recipe.seed,
                reporter=self.reporter,
                stage="after",
            )
        scores = benchmark_json(before, after, seed=self.recipe.seed)
        self.folder.write_json(self.folder.benchmark, scores)
        write_card(self.folder)
        self.reporter.report(BenchmarkFinished(scores))
        return scores

    def upload(self) -> None:
        """Publish the output folder as `recipe.upload` says."""
        from finetune.errors import RecipeError
        from finetune.hub.upload import upload_folder

        if self.recipe.upload is None:
            raise RecipeError("The recipe names no repository to upload to.", hint="--set upload.repo=USER/NAME")
        upload_folder(self.folder.output_dir, self.recipe.upload, self.reporter)

    def run(self) -> RunResult:
        """All stages in order."""
        self.check()
        outcome = self.train()
        scores = self.benchmark()
        if self.recipe.upload:
            self.upload()
        return RunResult(self.folder.output_dir, scores, asdict(outcome.finished))

    # What the stages share.

    def begin(self) -> None:
        """Claim the output folder and write down, before the long work, what is going to happen."""
        from finetune.environment import environment

        self.check()
        self.folder = RunFolder.create(self.recipe.output_dir)
        self.reporter.reporters.append(JsonLines(self.folder.events))
        report = self.data.report
        pinned: dict[str, Any] = {"model": self.located.pinned}
        if report.pinned_source:
            pinned["dataset"] = {"source": report.pinned_source}
        self.recipe = self.recipe.with_changes(pinned)
        self.recipe.save(self.folder.recipe)
        self.folder.write_json(self.folder.environment, environment(self))
        self.folder.write_json(self.folder.data_report, report.to_dict())
        self.reporter.report(DataPrepared(report.to_dict()))
        for note in [*report.notes, *getattr(self.tokenizer, "notes", [])]:
            self.reporter.report(Notice(note))

    def save(self) -> None:
        """The trained weights (an adapter, or the whole model) and the tokenizer."""
        self.model.save_pretrained(self.folder.output_dir)
        self.tokenizer.save_pretrained(self.folder.output_dir)

    def load_result(self) -> None:
        """The model that a finished run left in its folder."""
        from finetune.models.load import load_model
        from finetune.models.sources import locate

        result = locate(str(self.folder.output_dir), self.runtime, self.reporter)
        with self._stage("load", "Loading the model"):
            self.model = load_model(result, self.machine, merge=False)

    def _base_scores(self, model: Any) -> Scores:
        """The base model's scores: kept from an earlier run on the same rows, or measured now."""
        from finetune.benchmark.run import base_key, benchmark_model, load_base_scores, save_base_scores

        load_in = self.method.load_in(self.recipe.method)
        spec = self.recipe.benchmark
        dtype = f"{self.machine.device} {self.machine.dtype} {load_in}"
        key = base_key(self.located.pinned, self.data.fingerprint, spec, seed=self.recipe.seed, dtype=dtype)
        kept = load_base_scores(self.runtime, key)
        if kept is not None:
            self.reporter.report(Notice("The base model's scores are known from an earlier run on the same rows."))
            return kept
        with self._stage("before", "Measuring the base model"):
            if model is None:
                from finetune.models.load import load_model

                model = load_model(self.located, self.machine, load_in=load_in)
            scores = benchmark_model(
                model, self.tokenizer, self.data.held_out, spec, seed=self.recipe.seed, reporter=self.reporter, stage="before"
            )
        save_base_scores(self.runtime, key, scores)
        return scores

    @contextmanager
    def _stage(self, stage: str, title: str) -> Iterator[Any]:
        """Report a stage's begin and end; the yielded function takes its one-line summary."""
        summary = ""

        def done(text: str) -> None:
            nonlocal summary
            summary = text

        self.reporter.report(StageStarted(stage, title))
        began = time.perf_counter()
        yield done
        self.reporter.report(StageFinished(stage, round(time.perf_counter() - began, 3), summary))
