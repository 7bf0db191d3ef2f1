"""What a method is, and the pieces that several methods share.

A method is one file with a class: a title, a summary, a `Spec` (its recipe keys), `attach` and `footprint`. The registry makes one
object of it.

    class IA3(Method): ...          # written out in docs/extending.md
    registry.load("methods", "ia3").attach(model, spec, context)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from finetune.errors import ModelError
from finetune.events import Reporter
from finetune.recipe.settings import MethodSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerCallback

EVERY_LAYER = "all-linear"  # what peft calls it


def _known_as_auto(asked: Any) -> Any:
    if asked in (EVERY_LAYER, [EVERY_LAYER]):
        raise ValueError("must be 'auto' for all linear layers")
    return asked


TargetModules = Annotated[
    Literal["auto"] | Annotated[list[str], Field(min_length=1)],
    BeforeValidator(_known_as_auto),
    Field(description="auto means all linear layers, experts included; or list names, separated by commas."),
]
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # a weight, and its share of the doubly quantised scales (Dettmers et al. 2023, section 3)


@dataclass(frozen=True)
class MethodContext:
    """What a method may need to know about its run; `total_steps` is None while unknown.

    `head_settled`: embeddings and head are what they will be, the teacher's own or rounded for good. `new_tokens` are to be learned.
    """

    total_steps: int | None
    seed: int = 0
    head_settled: bool = False
    new_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Footprint:
    """What a method costs, for the plan that is made before anything is loaded.

    `adapter`: it trains a small part next to the frozen model and saves only that, through peft; otherwise every weight trains. `rank` is
    how many numbers it trains for each input and each output of a linear layer (LoRA: its rank; one number per output: about 0.5), `bits`
    the bits of a linear weight (None: those of the machine's dtype), `activations` the values kept for the backward pass, per token and
    layer, in multiples of the model's width, `state` the bytes of optimizer state per trained weight, and `slowdown` the time of a step
    as a multiple of LoRA's on a CPU.
    """

    adapter: bool
    rank: float = 0
    bits: float | None = None
    activations: float = 28
    state: int = 8
    slowdown: float = 1.0


class Method:
    """The defaults of every method; a subclass has a title, a summary, a Spec, `attach` and `footprint`, and overrides what it needs.

    `learning_rate` is a good default for fine-tuning: adapters need rates that would break a fully trained model.
    """

    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float] = 1e-3
    trains_further: ClassVar[str | None] = None  # the kind of adapter, as peft calls it, that `go_on` can train further
    can_be_cut: ClassVar[bool] = False  # whether several GPUs can have a part of the model each
    Spec: ClassVar[type[MethodSpec]]

    def check(self, spec: Any, device: str) -> list[str]:
        """Reasons why this method cannot run on `device`, each one sentence."""
        return []

    def check_steps(self, spec: Any, steps: int) -> None:
        """Raises RecipeError if so many optimizer steps are not enough for the method."""

    def load_in(self, spec: Any) -> str | None:
        """How the base model is loaded: None, "8bit" or "4bit"."""
        return None

    def attach(self, model: PreTrainedModel, spec: Any, context: MethodContext) -> Any:
        """The model with exactly the right parameters set to train."""
        raise NotImplementedError

    def go_on(self, model: Any, spec: Any, context: MethodContext) -> Any:
        """An earlier adapter and its base, set to train that adapter further; for a method with `trains_further`."""
        raise NotImplementedError

    def callbacks(self, model: Any, spec: Any) -> list[TrainerCallback]:
        """Callbacks the method needs while training."""
        return []

    def penalty(self, model: Any, spec: Any) -> Callable[[], Tensor] | None:
        """What is added to the loss once per optimizer step, as a function of the trained parameters; None for nothing."""
        return None

    def trains_tokens(self, spec: Any) -> bool:
        """Whether new tokens learn."""
        return False

    def settled_at(self, spec: Any, steps: int) -> int:
        """The first of so many steps after which the weights can be a result."""
        return 0

    def finish(self, model: Any, spec: Any, reporter: Reporter) -> Any:
        """The trained model as it is saved and measured."""
        return model

    def save(self, model: Any, folder: Path) -> None:
        """Write what was trained so that from_pretrained of transformers and of peft both read it."""
        model.save_pretrained(folder)

    def notes(self, spec: Any, device: str) -> list[str]:
        """What the user should know before the method runs on `device`, one sentence each."""
        return []

    def keeps_head(self, spec: Any, *, head_settled: bool) -> bool:
        """Whether the output head stays as it is, as it does beside an adapter on other layers."""
        targets = getattr(spec, "target_modules", "auto")
        return self.footprint(spec).adapter and (targets == "auto" or "lm_head" not in targets)

    def footprint(self, spec: Any) -> Footprint:
        """Memory and time of the method."""
        raise NotImplementedError


def attach_adapter(
    model: PreTrainedModel,
    target_modules: str | list[str],
    context: MethodContext,
    config_of: Callable[[list[str]], Any],
    *,
    quantised: bool = False,
) -> Any:
    """The model wrapped by peft with the config for its target modules; raises ModelError if they match nothing.

    Experts that are one parameter are adapted where peft can, which is LoRA without DoRA; it then has no dropout. `quantised` says that the
    linear layers are, or will be when the model is loaded.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    from finetune.methods.targets import find_targets, linear_targets

    set_seed(context.seed)
    example = config_of([])
    plain = type(example) is LoraConfig and not example.use_dora
    targets = find_targets(model, target_modules, parameters=plain, quantised=quantised)
    config = config_of(targets.modules)
    config.exclude_modules = targets.exclude
    if targets.parameters:
        config.target_parameters, config.lora_dropout = targets.parameters, 0.0
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"Cannot attach an adapter to {', '.join(targets.modules)} in {type(model).__name__}: {error}.",
            hint=f"The linear layers of this model are {', '.join(linear_targets(model))}.",
        ) from None
