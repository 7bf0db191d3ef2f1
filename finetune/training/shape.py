"""How many parameters a method would train, from the model's shape alone: nothing is loaded, no memory is used."""

from __future__ import annotations

from typing import Any

from finetune.methods.base import MethodContext
from finetune.models.sources import LocatedModel


def trainable_parameters(located: LocatedModel, method: Any, spec: Any) -> int:
    """Attach the method to a model without weights (torch's meta device) and count."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    home = located
    while home.base is not None:
        home = home.base
    config = AutoConfig.from_pretrained(home.folder, trust_remote_code=home.remote_code, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=home.remote_code)
        model = method.attach(model, spec, MethodContext(total_steps=1))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
