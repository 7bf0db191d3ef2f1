"""LLMFineTuner: executes a recipe, stage by stage; every stage writes its files into the output folder and reports events.

tuner = LLMFineTuner(Recipe.from_layers({"training": {"epochs": 1}}))
tuner.check()
tuner.train()
tuner.benchmark()          # or tuner.run() for all of it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.events import Fanout, Recorder, Reporter
from finetune.hub.reachability import ask_again
from finetune.recipe import Recipe
from finetune.run.given import distillation_changes, recipe_of
from finetune.run_context import RunContext
from finetune.run_folder import BENCHMARK, FINISHED, ROWS, STAGES, TRAINING, UPLOAD, RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.library_warnings import hush

if TYPE_CHECKING:
    from finetune.benchmark.scoring import Scores
    from finetune.data.prepare import PreparedData
    from finetune.planning.estimate import Plan
    from finetune.run.baselines import TeacherScores
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
    """One run of one recipe. Call `run`, or its stages one by one: each does what it needs of those before it, once.

    The recipe is a Recipe, a mapping of its keys or a YAML file; keywords are recipe keys over it. `dataset` may be rows in memory: a list
    of texts or records, a datasets.Dataset, a pandas table. Raises RecipeError, or DatasetError for rows that are none.
    """

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
        *,
        reporter: Reporter | None = None,
        runtime: RuntimeOptions | None = None,
        **keys: Any,
    ) -> None:
        hush()
        ask_again()
        runtime = runtime or RuntimeOptions()
        recipe = recipe_of(recipe, keys, runtime)
        self.context = RunContext(recipe, runtime, Fanout(reporter or Recorder()))
        self.folder = RunFolder(recipe.output_dir)
        self.model: Any = None  # with its method, from load_model on
        self.teacher: Any = None
        self.before: Scores | None = None
        self.teacher_scores: TeacherScores | None = None
        self.outcome: Outcome | None = None
        self.resume_state: Unfinished | None = None
        self.planned: Plan | None = None
        self._base: Any = None  # the model as it was loaded, until the method is attached
        self._made: dict[str, Any] = {}  # what was decided about a student
        self._checked = False
        self._expected: PreparedData | None = None  # stand-ins for rows that are not written yet
        self._start: Checkpoint | None = None

    @classmethod
    def of_run(cls, output_dir: str | Path, *, reporter: Reporter | None = None, runtime: RuntimeOptions | None = None) -> LLMFineTuner:
        """The tuner of a finished run; raises BadInput if there is none."""
        folder = RunFolder.of(output_dir)
        runtime = folder.as_begun(runtime or RuntimeOptions())
        return cls(Recipe.load(folder.recipe, layers=({"output_dir": str(folder.output_dir)},)), reporter=reporter, runtime=runtime)

    @classmethod
    def unfinished(cls, output_dir: str | Path, *, reporter: Reporter | None = None, runtime: RuntimeOptions | None = None) -> LLMFineTuner:
        """The tuner of an interrupted run: run() does what is left of it. Raises BadInput if there is no run, or if it is finished."""
        from finetune.run.resume import find, nothing_left

        tuner = cls.of_run(output_dir, reporter=reporter, runtime=runtime)
        tuner.folder.check_unclaimed()
        tuner._drop_checkpoints()
        tuner.resume_state = find(output_dir)
        if tuner.resume_state is None:
            raise nothing_left(tuner.folder)
        return tuner

    @property
    def recipe(self) -> Recipe:
        return self.context.recipe

    @property
    def reporter(self) -> Fanout:
        return self.context.reporter

    @property
    def tokenizer(self) -> Any:
        return self.context.tokenizer

    @property
    def data(self) -> PreparedData:
        """The rows; after a plan without them, what is expected of those that are still to be written."""
        return self._expected or self.context.data

    def run(self) -> RunResult:
        """All stages in order, or those that an interrupted run has left. Raises Interrupted if a person stopped it."""
        self.check()
        with self._at_work():
            if self._to_do(TRAINING):
                self.load_models()
                self.score_before()
                self.train()
            scores = self.benchmark() if self._to_do(BENCHMARK) else self.folder.read_json(self.folder.benchmark)
            if self.recipe.upload:
                self.upload()
        return RunResult(self.folder.output_dir, scores, self.folder.read_json(self.folder.progress)["training"])

    # The stages.

    def check(self) -> None:
        """Find everything that can be found before the long work; raises the error that says what to change."""
        from finetune.run.check import check_models, check_settings

        check_settings(self.context, self.folder, resumed=self.resume_state is not None)
        self.check_upload()
        check_models(self.context)
        self._checked = True

    def check_upload(self) -> None:
        """Raises UploadError, NotSignedIn, ReadOnlyToken or RepoExists if the result could not go where the recipe wants it uploaded."""
        from finetune.run.check import check_upload

        check_upload(self.context, self.folder, resumed=self.resume_state is not None)

    def prepare_data(self) -> PreparedData:
        """Read, split and tokenise the rows, which a teacher may have to write first; run/data_report.json says what each became."""
        from finetune.planning.epochs import settled

        self.write_rows()
        self.context = settled(self.context)
        return self.context.data

    def write_rows(self) -> None:
        """Have the teacher write the rows that are missing, where it is to write them; one that cannot write leaves nothing behind."""
        from finetune.run.records import write_missing_rows

        if not self.context.source.missing(self.context):
            return
        if not self._checked:
            self.check()
        self.context = self.context.pinned()
        if self.resume_state:
            self.folder.claim()
        else:
            self.folder = RunFolder.create(self.recipe.output_dir)
        write_missing_rows(self.context, self.folder, resumed=self.resume_state is not None, load=self.load_teacher_model)
        self._expected = self.planned = None
        if not self.context.distils:
            self.teacher = None  # it has written what it was asked for

    def plan(self, *, measure: bool = False) -> Plan:
        """What the run will cost; prepares the data, writes nothing into the output folder.

        By arithmetic, or with `measure` from about 20 seconds of real steps. Rows that are missing count by number and usual length.
        """
        from finetune.planning.plan import plan, plan_without_rows

        if self.context.source.missing(self.context):
            self.planned, self._expected = plan_without_rows(self.context, measure=measure)
        else:
            self.prepare_data()
            self.planned = plan(self.context, measure=measure)
            self.context = self.context.placed(cut=self.planned.shards > 1, whole_on=self.planned.whole_on)
        return self.planned

    def load_models(self) -> Any:
        """The model to train as it is, in memory, and with it the teacher when distilling."""
        from finetune.planning.shards import memory_decides
        from finetune.run.loading import load_base, load_student

        if self.model is None and self._base is None:
            if self.planned is None and memory_decides(self.context):
                self.plan()  # whether the model has to fit one GPU
            if self.context.distils:
                student = load_student(self.context, self.load_teacher_model())
                self.context, self._base, self._made = student.context, student.model, student.facts
            else:
                self._base = load_base(self.context)
        return self._base

    def load_teacher_model(self, name: str | Path | None = None) -> Any:
        """The teacher in memory: the recipe's, or the model called `name`, which then becomes the recipe's."""
        from finetune.run.loading import load_teacher

        if name is not None:
            self._change({"teacher": str(name) if isinstance(name, Path) else name})
            self.teacher = None
        if self.teacher is None:
            self.teacher = load_teacher(self.context)
        return self.teacher

    def _hand_over_teacher(self) -> list[Any]:
        """The teacher in a list to take it from; of several the first, which is then let go of here: they are in memory one at a time."""
        handed = [self.load_teacher_model()]
        if len(self.context.teachers_located) > 1:
            self.load_models()  # the student may be cut out of it
            self.teacher = None
        return handed

    def score_before(self) -> Scores:
        """The scores of the model as it is, on the held-out rows; when distilling the teacher is scored too."""
        from finetune.run.baselines import base_scores, student_scores, teacher_scores

        if self.before is None:
            if self.context.has_other_teacher:
                self.teacher_scores = teacher_scores(self.context, self._hand_over_teacher())
                student = self.load_models()  # which settles its size
                self.before = student_scores(self.context, student, self.teacher_scores.one)
            else:
                self.before = base_scores(self.context, self.load_models)
        return self.before

    def load_model(self) -> Any:
        """The model that will be trained: in memory, scored as it is, with the method attached."""
        from finetune.run.loading import attach_method

        if self.model is None:
            self.score_before()
            self.model, self._base = attach_method(self.context, self.load_models()), None
        return self.model

    def train(self) -> Outcome:
        """Train and save the result into the output folder; raises Interrupted, with what was saved, if a person stopped it."""
        from finetune.run.loading import distillation_setup
        from finetune.run.records import write_student
        from finetune.run.resume import stopped, training_complete, what_decides
        from finetune.run.rounds import train_rounds

        if not self._to_do(TRAINING):
            raise training_complete(self.folder)
        with self._at_work():
            model, context, setup = self.load_model(), self.context, None
            if context.distils:
                write_student(context, self.folder, self._made)
                setup = distillation_setup(context, model, self._hand_over_teacher(), folder=self.folder)
                if not setup.needs_models:
                    self.teacher = None  # its answers are written down
            handed, self.model = [model], None  # it need not outlive its round
            del model
            start, taught = self._start, self.teacher_scores
            self.outcome, self.model = train_rounds(context, self.folder, handed, setup=setup, start=start, taught=taught)
            if context.cut:
                self.model = self.model.to(context.whole_on)
            finished = self.outcome.finished
            if self.outcome.complete:
                self.folder.write_stage(BENCHMARK, training=asdict(finished), made_with={"recipe": what_decides(context.recipe)})
                self._drop_checkpoints()
        if self.outcome.stopped:
            self.model = None  # from here on the folder counts, in which another tuner may go on
            raise stopped(self.folder, self.outcome)
        return self.outcome

    def train_distillation(self, **changes: Any) -> Outcome:
        """Train the student on its teacher; keywords change the recipe first: temperature, alpha, objective, cache, epochs, ..."""
        self._change(distillation_changes(changes))
        return self.train()

    def benchmark(self) -> dict[str, Any]:
        """Score the result on the held-out rows beside what it came from; writes run/benchmark.json, the report page and the card."""
        from finetune.run.loading import load_result
        from finetune.run.result import final_scores, write_scores

        RunFolder.of(self.folder.output_dir, hint="Train first: train(), or run() for everything.")
        self.folder.check_unclaimed()  # before the long work
        model = self.model
        if model is None:
            self.score_before()
            self._base = self.teacher = None
            model = load_result(self.context, self.folder)
        assert self.before is not None
        with self.folder.claimed():
            scores = final_scores(self.context, model, self.folder, before=self.before, taught=self.teacher_scores)
            write_scores(self.context, self.folder, scores)
            if self.folder.stage == BENCHMARK:
                self.folder.write_stage(UPLOAD if self.recipe.upload else FINISHED)
            self._drop_checkpoints()
        return scores

    def upload(self) -> None:
        """Publish the output folder as `recipe.upload` says."""
        from finetune.publish.upload import upload_folder

        if self.recipe.upload is None:
            raise RecipeError("The recipe has no repository to upload to.", hint="--set upload.repo=USER/NAME")
        upload_folder(self.folder.output_dir, self.recipe.upload, self.reporter)

    # What the stages share.

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Hold the output folder's lock; on first entry, write the recipe and the plan before the long work starts."""
        if self.folder.is_claimed:
            yield
            return
        if not self._checked:
            self.check()
        self.prepare_data()  # before the folder, so that data that cannot be used leaves nothing behind
        try:
            if self.resume_state:
                self._start = self._take_up()
            else:
                self._begin()
            yield
        finally:
            self.folder.release()

    def _begin(self) -> None:
        """A new folder, and in it what is going to happen, its revisions pinned to what was found."""
        from finetune.run.records import open_records, write_records

        self.context = self.context.pinned()
        planned = self.planned or self.plan()
        if self.folder.stage == ROWS:  # begun, so that its rows could be written
            self.folder.claim()
        else:
            self.folder = RunFolder.create(self.recipe.output_dir)
        open_records(self.reporter, self.folder)
        write_records(self.context, self.folder, planned)

    def _take_up(self) -> Checkpoint | None:
        """The folder of an interrupted run; the checkpoint to train on from, or None for the first step."""
        from finetune.run.records import write_records
        from finetune.run.resume import take_up

        self.resume_state, start = take_up(self.context, self.folder)
        if start is None and self.resume_state.stage in (ROWS, TRAINING):
            self.context = self.context.pinned()
            write_records(self.context, self.folder, self.planned or self.plan())
        return start

    def _drop_checkpoints(self) -> None:
        from finetune.run.resume import drop_checkpoints

        drop_checkpoints(self.folder, keep=self.recipe.training.keep_checkpoints)

    def _to_do(self, stage: str) -> bool:
        return self.resume_state is None or STAGES.index(self.resume_state.stage) <= STAGES.index(stage)

    def _change(self, changes: Mapping[str, Any]) -> None:
        """Another recipe, and so another context; what was resolved, loaded, scored and planned for the old one is found anew."""
        if (recipe := self.recipe.with_changes(changes)) == self.recipe:
            return
        if self.folder.stage not in (None, ROWS):
            self.folder.check_free()  # what is in it was made by the recipe as it is
        self.context = replace(self.context, recipe=recipe)
        self._checked, self.planned, self._made = False, None, {}
        self.model = self._base = self.before = self.teacher_scores = None
