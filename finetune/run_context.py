"""The context of a run: its recipe, and what it was resolved to on this machine. Each thing is found once and never replaced.

    context = RunContext(recipe, RuntimeOptions(), Fanout(Recorder()))
    context.located.name, len(context.data.train)         # found, fetched and prepared when first asked for

Stages take a context and return values. Another recipe is another context: `beside` makes one over the same models and data.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from finetune import registry
from finetune.errors import RecipeError
from finetune.events import Fanout, stage
from finetune.recipe import Recipe, StudentSpec
from finetune.recipe.task_settings import practises
from finetune.runtime import RuntimeOptions

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.data.prompts import Prompts
    from finetune.distillation.across_tokenizers.alignment import Alignment
    from finetune.hardware.machine import Machine
    from finetune.methods.earlier_adapter import EarlierAdapter
    from finetune.models.location import LocatedModel

RESOLVED = ("machine", "located", "teachers_located", "tokenizer", "prompts", "data", "cut", "whole_on", "counted")


@dataclass(frozen=True, eq=False)
class RunContext:
    """`recipe` says what the run is, `runtime` how this machine does it; `reporter` gets all events."""

    recipe: Recipe
    runtime: RuntimeOptions
    reporter: Fanout

    @property
    def distils(self) -> bool:
        return self.recipe.approach == "distillation"

    @property
    def teaches_itself(self) -> bool:
        """Whether the teacher is the model that trains, as it was before the run."""
        return self.recipe.teaches_itself

    @property
    def has_other_teacher(self) -> bool:
        """Whether the teacher is a model beside the one that trains, on this machine."""
        return bool(self.recipe.all_teachers) and not self.teaches_itself

    @property
    def copies_itself(self) -> bool:
        """Whether a model that teaches itself is loaded twice: it is asked at every step, and no adapter can be switched off."""
        adapter = self.method.footprint(self.recipe.method).adapter and not self.earlier
        return self.teaches_itself and self.teacher_stays and not adapter

    @property
    def asks_every_step(self) -> bool:
        """Whether the recipe wants the rows read by the teacher at every step: nothing is cached, or rounds compare other layers."""
        return self.recipe.distillation.cache == "none" or self.recipe.distillation.compares_other_layers

    @property
    def teacher_stays(self) -> bool:
        """Whether the recipe wants the teacher in memory while the student learns: it is asked at every step, or reads new answers."""
        return self.asks_every_step or self.recipe.distillation.practice is not None

    @property
    def student_is_made(self) -> bool:
        return isinstance(self.recipe.model, StudentSpec)

    @property
    def decides_between(self) -> Literal["rounds", "steps"] | None:
        """What the run chooses among by rows that are neither trained on nor reported, if it does."""
        if self.distils and self.recipe.distillation.until:
            return "rounds"
        return "steps" if self.recipe.training.evaluates else None

    @property
    def load_in(self) -> str | None:
        """How the method wants the model loaded: None, "8bit" or "4bit"."""
        loaded: str | None = self.method.load_in(self.recipe.method)
        return loaded

    @cached_property
    def machine(self) -> Machine:
        from finetune.hardware.machine import inspect

        return inspect(self.runtime)

    @cached_property
    def processes(self) -> int:
        """Processes that train on this machine: as many as were asked for, or one for each GPU that a step's rows can be shared among."""
        from finetune.training.step_count import most_that_divide

        at_most = 1 if self.alone else self.machine.gpus
        return self.runtime.processes or most_that_divide(self.recipe.training, at_most, self.runtime.nodes)

    @cached_property
    def alone(self) -> tuple[str, str] | None:
        """The part of the recipe that only one process can do, as the beginning of a sentence, and what to do instead; None if nothing."""
        spec = self.recipe.distillation
        named = f" (`distillation.task: {spec.task}`)" if practises(spec.task) else ""
        known = [
            (spec.practice, f"A student practises on its own answers{named}", "set distillation.on_policy to null."),
            (spec.features.asked, "Inner layers and attention are compared", "leave out distillation.features."),
            (spec.round_teacher == "previous", "Rounds that teach each other train", "--set distillation.round_teacher=first"),
        ]
        return next(((what, instead) for asked, what, instead in known if asked and self.distils), None)

    @cached_property
    def cut(self) -> bool:
        """Whether what trains is cut into shards, one for each process; where memory decides, a plan has settled it."""
        return self.runtime.shard == "yes"

    @cached_property
    def whole_on(self) -> str:
        """The device on which the model is loaded and scored; a plan may have found that it needs main memory."""
        return self.machine.device

    @property
    def devices(self) -> int:
        """How many work at the same time: the processes of a CPU share it."""
        return 1 if self.machine.device == "cpu" else self.processes * self.runtime.nodes

    @property
    def engine(self) -> str:
        """What trains, as the registry calls it."""
        return self.runtime.engine or ("torchrun" if self.processes * self.runtime.nodes > 1 else "here")

    @cached_property
    def method(self) -> Any:
        return registry.load("methods", self.recipe.method.kind)

    @cached_property
    def located(self) -> LocatedModel:
        """The model that is trained, on this disk (for a student made from its teacher: the teacher); fetched if it must be."""
        return self.teacher_located if self.student_is_made else self._locate("model", str(self.recipe.model), self.load_in)

    @cached_property
    def counted(self) -> dict[str, Any]:
        """What was counted of these models, by the settings that it depends on: attaching a method to count takes half a second."""
        return {}

    @cached_property
    def earlier(self) -> EarlierAdapter | None:
        """The adapter that is trained further: the model of the run where that is an adapter and the method trains one."""
        from finetune.methods.earlier_adapter import EarlierAdapter

        return EarlierAdapter.of(self.located) if self.method.trains_further and not self.student_is_made else None

    @cached_property
    def asked(self) -> Any:
        """The method's settings as the recipe asked for them, before an earlier adapter's took their place."""
        return self.recipe.method

    @property
    def rounds(self) -> list[RunContext]:
        """The context of each training of this run, one after another; itself where there is one."""
        if not self.recipe.distillation.in_rounds:
            return [self]
        from finetune.distillation.rounds import round_recipes

        recipes = round_recipes(self.with_rounds().recipe)
        _ = self.machine, self.located, self.teachers_located, self.tokenizer  # found once for all of them
        return [self.beside(recipe=recipe, processes=self.processes, alone=self.alone) for recipe in recipes]

    def with_rounds(self) -> RunContext:
        """The same with the rounds listed in the recipe, where they follow from the depth of the teacher."""
        if self.recipe.distillation.until is None or self.recipe.distillation.rounds:
            return self
        from finetune.distillation.rounds import with_rounds
        from finetune.models.facts import describe

        return self.beside(recipe=with_rounds(self.recipe, describe(self.teacher_located).layers))

    @property
    def base_located(self) -> LocatedModel:
        """The model that an adapter of this run belongs to: the one that is trained, or the base of the adapter that is."""
        return self.located.base if self.earlier and self.located.base else self.located

    @cached_property
    def teachers_located(self) -> list[LocatedModel]:
        if self.recipe.grader:
            return []
        if not self.recipe.named_teachers:
            raise RecipeError("A distillation needs a teacher.", hint="--set teacher=MODEL")
        if self.teaches_itself:
            return [self.located]
        return [self._locate("teacher", each.source, each.load_in) for each in self.recipe.named_teachers]

    @property
    def teacher_located(self) -> LocatedModel:
        """The teacher, or the first of several: the one that a student is made from."""
        return self.teachers_located[0]

    @cached_property
    def tokenizer(self) -> Any:
        from finetune.models.load import load_tokenizer

        tokenizer = load_tokenizer(self.located)
        if self.recipe.dataset.add_tokens:
            from finetune.models.new_tokens import add_tokens

            add_tokens(tokenizer, self.recipe.dataset.add_tokens)
        return tokenizer

    @cached_property
    def teacher_tokenizers(self) -> list[Any]:
        """Of each teacher; the first is the student's own where that is made from it, and that of a server is the same."""
        from finetune.models.load import load_tokenizer

        ours = [self.tokenizer] if self.student_is_made or self.teaches_itself or self.recipe.grader else []
        return ours + [load_tokenizer(located) for located in self.teachers_located[len(ours) :]]

    @cached_property
    def source(self) -> Any:
        """Where the rows come from."""
        return registry.load("sources", self.recipe.dataset.kind)

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts of the data that a teacher answers."""
        from finetune.data.prompts import read_prompts

        recipe = self.recipe
        return read_prompts(recipe.dataset, self.tokenizer, seed=recipe.seed, runtime=self.runtime, reporter=self.reporter)

    @cached_property
    def alignments(self) -> list[Alignment | None]:
        """Of each teacher: how its tokens are compared with the student's, where they are others and the recipe says how."""
        from finetune.distillation.across_tokenizers.alignment import alignment_of

        if self.recipe.distillation.across_tokenizers == "none":
            return [None] * len(self.recipe.all_teachers)
        return [alignment_of(self.tokenizer, theirs) for theirs in self.teacher_tokenizers]

    def of_teacher(self, number: int) -> RunContext:
        """The same with the held-out rows in the tokens of a teacher, where these are others."""
        alignment = self.alignments[number]
        if alignment is None:
            return self
        held_out: Any = [alignment.held_out(row) for row in self.data.held_out]
        return self.beside(tokenizer=self.teacher_tokenizers[number], data=replace(self.data, held_out=held_out))

    @cached_property
    def data(self) -> PreparedData:
        """The rows, read, split and tokenised."""
        source, _ = self.source, self.tokenizer
        with self.stage("data", "Preparing the data") as done:
            prepared: PreparedData = source.data(self)
            done(f"{prepared.report.train:,} rows to train on, {prepared.report.held_out:,} held out")
        return prepared

    def beside(self, *, recipe: Recipe | None = None, runtime: RuntimeOptions | None = None, **resolved: Any) -> RunContext:
        """A context over the same models and data with another recipe or other options; `resolved` takes the place of what was found."""
        other = replace(self, recipe=recipe or self.recipe, runtime=runtime or self.runtime)
        other.__dict__.update({name: self.__dict__[name] for name in RESOLVED if name in self.__dict__} | resolved)
        return other

    def placed(self, *, cut: bool, whole_on: str) -> RunContext:
        """The same where the plan has put the model: `cut` into shards, scored in one piece on the device `whole_on`."""
        return self if (cut, whole_on) == (self.cut, self.whole_on) else self.beside(cut=cut, whole_on=whole_on)

    def without_data(self, recipe: Recipe) -> RunContext:
        """A context over the same models with a recipe that asks for other rows."""
        other = self.beside(recipe=recipe)
        other.__dict__.pop("data", None)
        return other

    def pinned(self) -> RunContext:
        """The same with the revisions that were found written into the recipe, and the settings that an earlier adapter keeps."""
        found: dict[str, Any] = {} if self.student_is_made else {"model": self.located.pinned}
        if self.earlier:
            from finetune.methods.earlier_adapter import settings_kept

            found["method"] = settings_kept(self.earlier, self.recipe.method)
        if self.recipe.teachers:
            each = zip(self.recipe.teachers, self.teachers_located, strict=True)
            found["teachers"] = [{**spec.model_dump(), "source": located.pinned} for spec, located in each]
        elif self.recipe.named_teachers and not self.teaches_itself:
            found["teacher"] = {"source": self.teacher_located.pinned}
        if not self.source.missing(self) and self.data.report.pinned_source:
            found["dataset"] = {"source": self.data.report.pinned_source}
        return self.beside(recipe=self.recipe.with_changes(found), asked=self.asked)

    def stage(self, name: str, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Report a stage's begin and end; the yielded function takes its one-line summary."""
        return stage(self.reporter, name, title)

    def _locate(self, role: str, text: str, load_in: str | None) -> LocatedModel:
        from finetune.models.location import locate

        with self.stage("model", f"Finding the {role}") as done:
            found = locate(text, self.runtime, self.reporter, load_in=load_in)
            done(found.name)
        return found
