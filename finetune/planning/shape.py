"""The models of a run in numbers, from their configurations alone: nothing is loaded, no memory is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.distillation.grids.quantised import check_quantised
from finetune.errors import RecipeError
from finetune.methods.base import MethodContext
from finetune.methods.earlier_adapter import EarlierAdapter
from finetune.methods.inventory import Inventory
from finetune.models.facts import ModelFacts, describe
from finetune.models.location import LocatedModel
from finetune.models.new_tokens import add_rows, new_tokens_of
from finetune.planning.across_tokenizers import check_tokenizers
from finetune.planning.checks import adapter_problem, quantised_problem
from finetune.planning.features import check_features
from finetune.planning.without_weights import without_weights
from finetune.recipe import StudentSpec
from finetune.recipe.distillation_settings import QuantizeSpec
from finetune.recipe.settings import FromTeacher
from finetune.run_context import RunContext


@dataclass(frozen=True)
class Learning:
    """What a method trains of a model: of all `parameters` the `trainable` ones, and the `share` of the weights in linear layers.

    `linear` are the base's parameters in linear layers below its head, `layers` how many of its blocks there are, `experts` those of
    experts that are adapted as one parameter, `embeddings` the rows of its embeddings; `notes` say what does not learn, one sentence each.
    """

    trainable: int
    parameters: int
    linear: int
    layers: int
    embeddings: int
    experts: int
    share: float
    notes: list[str]


@dataclass(frozen=True)
class Shape:
    """The models of a run in numbers; `others` are the teachers beside the first.

    A model that is its own teacher has none beside it.
    """

    model: ModelFacts
    teacher: ModelFacts | None
    learning: Learning
    others: Sequence[ModelFacts] = ()

    @property
    def teachers(self) -> list[ModelFacts]:
        return [self.teacher, *self.others] if self.teacher else []

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers in a hidden state of the model and of its teacher."""
        return self.model.hidden, (self.teacher or self.model).hidden


def shape_of(context: RunContext) -> Shape:
    """The shape of a run's models; nothing is loaded, and what attaching the method to loaded ones would raise is raised now.

    What `check_tokenizers` raises, RecipeError for a student of no or of all layers, and where `adapter_problem` says so.
    """
    spec = context.recipe.method
    if problem := adapter_problem(context, context.method, spec) or quantised_problem(context, context.method, spec):
        raise problem
    recipe, facts = context.recipe, describe(context.located)
    teacher: ModelFacts | None = None
    wanted: FromTeacher | None = None
    others: list[ModelFacts] = []
    if context.has_other_teacher:
        teacher, *others = map(describe, context.teachers_located)
        if isinstance(recipe.model, StudentSpec):
            wanted = recipe.model.from_teacher
        check_tokenizers(context, facts, [teacher, *others])
    check_features(context, wanted)
    more: dict[str, Any] = {"wanted": wanted, "earlier": context.earlier, "quantize": recipe.distillation.quantize}
    if recipe.dataset.add_tokens:
        more["tokens"] = _new_tokens(context)
    settings = repr((context.located, recipe.method, more))
    if settings not in context.counted:
        context.counted[settings] = what_learns(context.located, context.method, recipe.method, **more)
    return Shape(facts, teacher, context.counted[settings], others)


def shapes_of(context: RunContext) -> list[Shape]:
    """The shape of each round of a run; raises what `shape_of` raises, and RecipeError for rounds that the teacher cannot give."""
    rounds = context.with_rounds().recipe.distillation.rounds
    if rounds and rounds[0] >= (depth := describe(context.teacher_located).layers):
        raise RecipeError(
            f"distillation.rounds: the first round keeps {rounds[0]} layers, and the teacher has {depth}.",
            hint=f"Begin with at most {depth - 1}.",
        )
    return [shape_of(each) for each in context.rounds]


def _new_tokens(context: RunContext) -> dict[int, list[int]]:
    """The tokens that are added; RecipeError for an adapter that is trained further, which has none for them."""
    if context.earlier and new_tokens_of(context.tokenizer):
        raise RecipeError(
            f"dataset.add_tokens needs a new adapter, and {context.earlier.name} is trained further.",
            hint="Name its base under model, or leave out dataset.add_tokens.",
        )
    return new_tokens_of(context.tokenizer)


def what_learns(
    located: LocatedModel,
    method: Any,
    spec: Any,
    *,
    wanted: FromTeacher | None = None,
    earlier: EarlierAdapter | None = None,
    quantize: QuantizeSpec | None = None,
    tokens: Mapping[int, Sequence[int]] | None = None,
) -> Learning:
    """What of a model a method trains: the method is attached to a model without weights, on torch's meta device.

    `wanted` is what a student keeps of the model, `earlier` is an adapter that is trained further, `quantize` says in how many bits it
    learns, `tokens` are new. Raises what `check_quantised` raises, RecipeError for a student of
    nothing or of all, ModelError for what is not a language model, for a student that its own configuration would not describe, and where
    the method cannot be attached.
    """
    import torch

    model = without_weights(located, wanted)
    with torch.device("meta"):
        if quantize is not None:
            check_quantised(model, quantize, located.home.name, wanted)
        if tokens and not method.footprint(spec).adapter:  # an adapter finds its base as it is
            add_rows(model, tokens)
        embeddings = model.get_input_embeddings().weight.shape[0]
        inventory = Inventory.of(model)
        linear = _linear_parameters(model)
        layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
        model, make = (earlier.attach(model), method.go_on) if earlier else (model, method.attach)
        settled = wanted is not None or quantize is not None
        attached = make(model, spec, MethodContext(None, head_settled=settled, new_tokens=tuple(tokens or ())))
    coverage = inventory.coverage(attached, spec)
    parameters = list(attached.parameters())
    return Learning(
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        parameters=sum(parameter.numel() for parameter in parameters),
        linear=linear,
        layers=layers,
        embeddings=embeddings,
        experts=inventory.adapted_experts(attached),
        share=coverage.share,
        notes=coverage.notes,
    )


def _linear_parameters(model: Any) -> int:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head)
