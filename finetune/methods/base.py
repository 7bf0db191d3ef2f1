"""What a method is, and the pieces that several methods share.

A method is one file with a class that has a `Spec` (its recipe keys) and these functions; registry.py names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from finetune.errors import ModelError
from finetune.recipe import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback


@dataclass(frozen=True)
class MethodContext:
    """What a method may need to know about the run it is part of."""

    total_steps: int
    seed: int = 0
    student_is_made: bool = False


class Method(Protocol):
    """The contract of a method."""

    title: ClassVar[str]
    summary: ClassVar[str]
    Spec: ClassVar[type[Spec]]

    @staticmethod
    def check(spec: Any, device: str) -> list[str]:
        """Reasons why this method cannot run on `device`, each one sentence."""

    @staticmethod
    def load_in(spec: Any) -> str | None:
        """How the base model is loaded: None, "8bit" or "4bit"."""

    @staticmethod
    def attach(model: PreTrainedModel, spec: Any, context: MethodContext) -> Any:
        """The model with exactly the right parameters set to train."""

    @staticmethod
    def callbacks(model: Any, spec: Any) -> list[TrainerCallback]:
        """Callbacks the method needs while training."""


def linear_targets(model: PreTrainedModel) -> list[str]:
    """Names of every linear layer's last part, such as q_proj, without the output head.

    Covers nn.Linear, GPT-2's Conv1D and the quantised layers of bitsandbytes. Raises ModelError if there is none.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    routers = _router_names(model)
    targets = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name not in routers
    }
    if not targets:
        raise ModelError(f"{type(model).__name__} has no linear layers that LoRA could attach to.", hint="Use --set method.kind=full.")
    return sorted(targets)


def _router_names(model: PreTrainedModel) -> set[str]:
    """Routers of mixtures of experts: a tiny layer that picks experts; training it with LoRA unbalances them."""
    experts = getattr(model.config, "num_experts", None) or getattr(model.config, "num_local_experts", None)
    return {name for name, module in model.named_modules() if experts and getattr(module, "out_features", None) == experts}
