"""How many parameters a method would train, from the model's shape alone: nothing is loaded, no memory is used."""

from __future__ import annotations

from typing import Any

from finetune.methods.base import MethodContext
from finetune.models.location import LocatedModel


def trainable_parameters(located: LocatedModel, method: Any, spec: Any, *, layers: int | None = None) -> tuple[int, int, int]:
    """Trainable and all parameters, and those of the base's linear layers below its head.

    `layers` are those of a student that keeps only so many of the model's. The method is attached to a model without weights, on
    torch's meta device.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    home = located
    while home.base is not None:
        home = home.base
    config = AutoConfig.from_pretrained(home.folder, trust_remote_code=home.remote_code, local_files_only=True)
    if layers is not None:
        text = config.get_text_config()
        text.num_hidden_layers = layers
        if isinstance(getattr(text, "layer_types", None), list):
            text.layer_types = text.layer_types[:layers]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=home.remote_code)
        linear = _linear_parameters(model)
        model = method.attach(model, spec, MethodContext(total_steps=None, student_is_made=layers is not None))
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in parameters), linear


def _linear_parameters(model: Any) -> int:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head)
