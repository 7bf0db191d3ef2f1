"""What a method is, and the pieces that several methods share.

A method is one file with a class that has a `Spec` (its recipe keys) and these functions; registry.py names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.errors import ModelError
from finetune.events import Reporter
from finetune.recipe import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerCallback

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # a weight, and its share of the doubly quantised scales (Dettmers et al. 2023, section 3)


@dataclass(frozen=True)
class MethodContext:
    """What a method may need to know about the run it is part of; `total_steps` is None while they are not known yet."""

    total_steps: int | None
    seed: int = 0
    student_is_made: bool = False


@dataclass(frozen=True)
class Footprint:
    """What a method costs, for plans that are made before anything is loaded.

    `rank` is that of its adapter (None: every weight trains), `bits` those of a linear weight (None: as many as the machine's dtype has),
    `activations` the values kept for the backward pass, per token and layer, in multiples of the model's width, `state` the bytes kept for
    each weight that trains beside itself and its gradient, and `slowdown` the time of a step as a multiple of LoRA's on a CPU.
    """

    rank: int | None
    bits: float | None = None
    activations: float = 28
    state: int = 8
    slowdown: float = 1.0


class Method:
    """A method with nothing special about it; a real one has a title, a summary, a Spec and `attach`, and overrides what it needs."""

    title: ClassVar[str]
    summary: ClassVar[str]
    Spec: ClassVar[type[Spec]]

    @staticmethod
    def check(spec: Any, device: str) -> list[str]:
        """Reasons why this method cannot run on `device`, each one sentence."""
        return []

    @staticmethod
    def check_steps(spec: Any, steps: int) -> None:
        """Raises RecipeError if so many optimizer steps are not enough for the method."""

    @staticmethod
    def load_in(spec: Any) -> str | None:
        """How the base model is loaded: None, "8bit" or "4bit"."""
        return None

    @staticmethod
    def attach(model: PreTrainedModel, spec: Any, context: MethodContext) -> Any:
        """The model with exactly the right parameters set to train."""
        raise NotImplementedError

    @staticmethod
    def callbacks(model: Any, spec: Any) -> list[TrainerCallback]:
        """Callbacks the method needs while training."""
        return []

    @staticmethod
    def penalty(model: Any, spec: Any) -> Callable[[], Tensor] | None:
        """What is added to the loss once for every optimizer step, as a function of the trained parameters; None for nothing."""
        return None

    @staticmethod
    def finish(model: Any, spec: Any, reporter: Reporter) -> Any:
        """The trained model as it is saved and measured."""
        return model

    @staticmethod
    def save(model: Any, folder: Path) -> None:
        """Write what was trained so that from_pretrained of transformers and of peft both read it."""
        model.save_pretrained(folder)

    @staticmethod
    def notes(spec: Any, device: str) -> list[str]:
        """What a person should know before the method runs on `device`, one sentence each."""
        return []

    @staticmethod
    def footprint(spec: Any) -> Footprint:
        """Memory and time of the method."""
        raise NotImplementedError


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


def attach_adapter(
    model: PreTrainedModel, target_modules: str | list[str], context: MethodContext, config_of: Callable[[list[str]], Any]
) -> Any:
    """The model wrapped by peft with the config for its target modules; raises ModelError if they match nothing."""
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(context.seed)
    targets = linear_targets(model) if isinstance(target_modules, str) else target_modules
    try:
        return get_peft_model(model, config_of(targets))
    except ValueError as error:
        raise ModelError(
            f"An adapter cannot attach to {', '.join(targets)} in {type(model).__name__}: {error}.",
            hint=f"The linear layers of this model are {', '.join(linear_targets(model))}.",
        ) from None


def _router_names(model: PreTrainedModel) -> set[str]:
    """Routers of mixtures of experts: a tiny layer that picks experts; training it with LoRA unbalances them."""
    experts = getattr(model.config, "num_experts", None) or getattr(model.config, "num_local_experts", None)
    return {name for name, module in model.named_modules() if experts and getattr(module, "out_features", None) == experts}
