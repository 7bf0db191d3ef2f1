"""The teacher that writes rows, or answers to prompts of the data: a model on this machine, or one on a server.

teacher = teacher_of(context)
teacher.check()
author = teacher.author(examples, load=tuner.load_teacher_model)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.models.facts import describe
from finetune.recipe.teacher_settings import host_of
from finetune.sources.server import Server
from finetune.system.storage import digest

if TYPE_CHECKING:
    from finetune.run_context import RunContext
    from finetune.sources.answerer import Answerer
    from finetune.sources.author import Author
    from finetune.sources.prompt_builder import Turns


class ModelTeacher:
    """`identity` is different for every teacher that could write other rows; `licence` is what the model's card says, if it is known."""

    budget: int | None = None

    def __init__(self, context: RunContext) -> None:
        located = context.teacher_located
        self.context, self.name, self.pinned = context, located.name, located.pinned
        load_in = context.recipe.teacher.load_in if context.recipe.teacher else None
        self.identity = " ".join(filter(None, [located.identity, load_in]))
        self.writes_with = f"{self.identity} {context.machine.device} {context.machine.dtype}"

    @property
    def licence(self) -> str | None:
        return describe(self.context.teacher_located).licence

    @property
    def parameters(self) -> int | None:
        return describe(self.context.teacher_located).parameters

    def check(self) -> None:
        """Raises ModelError for a chat template that does not show where a person's words are."""
        from finetune.sources.prompt_builder import problem

        if found := problem(self.context.teacher_tokenizers[0], self.name):
            raise found

    def check_answers(self) -> None:
        """Raises ModelError for a chat template that cannot be given a person's words."""
        from finetune.sources.answerer import problem

        if found := problem(self.context.teacher_tokenizers[0], self.name):
            raise found

    def answerer(self, most: int, load: Callable[[], Any]) -> Answerer:
        from finetune.sources.answerer import ModelAnswerer

        return ModelAnswerer(load(), self.context.teacher_tokenizers[0], most=most, seed=self.context.recipe.seed)

    def author(self, examples: Sequence[Turns], load: Callable[[], Any]) -> Author:
        from finetune.sources.author import ModelAuthor

        recipe = self.context.recipe
        return ModelAuthor(load(), self.context.teacher_tokenizers[0], recipe.dataset, examples, recipe.seed)


class ServerTeacher:
    """The same for a server; what it writes follows from its name and the model's alone, as far as can be known."""

    licence = parameters = None

    def __init__(self, context: RunContext) -> None:
        spec = context.recipe.teacher
        assert spec is not None
        assert spec.server is not None
        self.context, self.spec, self.budget = context, spec, spec.budget_tokens
        self.name = f"{spec.model} at {host_of(spec.server)}"
        self.pinned = f"{spec.server} {spec.model}"
        self.identity = self.writes_with = digest([spec.server.rstrip("/"), str(spec.model)])

    def check(self) -> None:
        """Raises what `Server.check` raises."""
        Server(self.spec, self.context.reporter).check()

    check_answers = check

    def answerer(self, most: int, load: Callable[[], Any]) -> Answerer:
        from finetune.sources.answerer import ServerAnswerer

        server = Server(self.spec, self.context.reporter)
        server.check()
        return ServerAnswerer(server, most=most, seed=self.context.recipe.seed, budget=self.budget)

    def author(self, examples: Sequence[Turns], load: Callable[[], Any]) -> Author:
        from finetune.sources.server_author import ServerAuthor

        server, recipe = Server(self.spec, self.context.reporter), self.context.recipe
        server.check()
        return ServerAuthor(server, recipe.dataset, examples, recipe.seed, self.budget)


def teacher_of(context: RunContext) -> ModelTeacher | ServerTeacher:
    """Raises RecipeError where the recipe names none."""
    if context.recipe.teacher is None:
        raise RecipeError(
            "A model learns nothing new from rows that it wrote itself.",
            hint="Name a larger model that writes them: --set teacher=MODEL, or distil: --set approach=distillation",
        )
    return ServerTeacher(context) if context.recipe.teacher.server else ModelTeacher(context)
