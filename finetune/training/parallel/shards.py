"""A model cut into shards, one for each process: its weights, gradients and optimizer states, and one layer at a time whole (FSDP2).

    whole = Whole(model, device)            # afterwards the parameters are shards; before an optimizer is made of them
    loss, count = whole(lambda: loss_of(model))        # in here head and embeddings are whole, and each layer while it works
    full(parameter)                         # all of it, on the CPU; all processes have to ask

All processes make each forward and each backward pass together: one that has no rows needs some all the same. Gradients are summed, not
averaged, because the loss of a step is divided by the tokens of all.

The model may be in main memory, and larger than the device: `fully_shard` moves the parameters of one layer, keeps this process's part and
lets the rest go, so the device never has more than its part of the model and one layer, or embeddings and head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from finetune.errors import ModelError
from finetune.training.head import backbone_of


class Whole(nn.Module):
    """Runs a function of a model that is cut into shards; a layer's are gathered when it is called, the rest for the whole function."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        # Half a second to import, which the others need not spend.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        super().__init__()
        self.model = model
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in layers_of(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def in_forward(model: Any, function: Callable[[], Any]) -> Any:
    """What `function` gives inside a forward pass of a model that accelerate has cut (FSDP2): embeddings and head are gathered there."""
    head, made = model.get_output_embeddings(), list[Any]()

    def work() -> Any:
        if hasattr(head, "unshard"):  # its forward is never called: the loss multiplies by its weights
            head.unshard()
        made.append(function())
        return made[0]

    forward = vars(model).get("forward")  # mixed precision has put its own there
    model.forward = work
    try:
        model()
        return made[0]  # what the pass returns may have been rounded to 16 bits
    finally:
        del model.forward
        if forward is not None:
            model.forward = forward


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's backbone, which are gathered one at a time; raises ModelError where they cannot be found."""
    lists: list[Any] = [module for module in backbone_of(model).modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError("The layers of this model cannot be found, so it cannot be cut into shards.", hint="Use --shard no.")
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in lists]
    return list(lists[sizes.index(max(sizes))])


def full(tensor: Any) -> Any:
    """The whole tensor of a shard, on the CPU; whatever is no shard stays. All processes have to call it."""
    return tensor.detach().full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor
