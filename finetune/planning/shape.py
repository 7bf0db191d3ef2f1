"""The models of a run in numbers, from their configurations alone: nothing is loaded, no memory is used."""

from __future__ import annotations

from typing import Any

from finetune.distillation.student import kept_layers
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.methods.base import MethodContext
from finetune.methods.earlier import EarlierAdapter
from finetune.model_folder import AGAIN
from finetune.models.facts import ModelFacts, describe
from finetune.models.location import LocatedModel
from finetune.planning.checks import adapter_problem
from finetune.planning.estimate import Shape
from finetune.recipe import StudentSpec
from finetune.run_context import RunContext


def shape_of(context: RunContext) -> Shape:
    """The shape of a run's models; nothing is loaded, and what attaching the method to loaded ones would raise is raised now.

    VocabularyMismatch if teacher and student have different tokenizers, RecipeError for a student of no or of all layers, and where
    `adapter_problem` says so.
    """
    if problem := adapter_problem(context, context.method, context.recipe.method):
        raise problem
    recipe, facts = context.recipe, describe(context.located)
    teacher: ModelFacts | None = None
    layers: int | None = None
    if context.distils:
        teacher = describe(context.teacher_located)
        if isinstance(recipe.model, StudentSpec):
            layers = kept_layers(recipe.model.from_teacher.layers, facts.layers)
        else:
            shared_vocabulary(facts.vocabulary, teacher.vocabulary, context.tokenizer, context.teacher_tokenizer)
    learning = trainable_parameters(context.located, context.method, recipe.method, layers=layers, earlier=context.earlier)
    return Shape(facts, teacher, layers or facts.layers, *learning)


def trainable_parameters(
    located: LocatedModel, method: Any, spec: Any, *, layers: int | None = None, earlier: EarlierAdapter | None = None
) -> tuple[int, int, int]:
    """Trainable and all parameters, and those of the base's linear layers below its head.

    `layers` are those of a student that keeps only so many of the model's, `earlier` is an adapter that is trained further. The method is
    attached to a model without weights, on torch's meta device.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    home = located
    while home.base is not None:
        home = home.base
    with reading(home.name, ModelError, hint=AGAIN, what="cannot be loaded"):
        config = AutoConfig.from_pretrained(home.folder, trust_remote_code=home.remote_code, local_files_only=True)
        if layers is not None:
            text = config.get_text_config()
            text.num_hidden_layers = layers
            if isinstance(getattr(text, "layer_types", None), list):
                text.layer_types = text.layer_types[:layers]
    with torch.device("meta"):
        with reading(home.name, ModelError, hint=AGAIN, what="cannot be loaded"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=home.remote_code)
        linear = _linear_parameters(model)
        model, make = (earlier.attach(model), method.go_on) if earlier else (model, method.attach)
        model = make(model, spec, MethodContext(total_steps=None, student_is_made=layers is not None))
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in parameters), linear


def _linear_parameters(model: Any) -> int:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head)
