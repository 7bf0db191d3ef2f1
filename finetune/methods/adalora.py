"""AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): low-rank adapters with adaptive ranks.

    W + s * P diag(E) Q        P [out, r], E [r], Q [r, in]; one triplet (P_i, E_i, Q_i) is one rank

Training starts with `init_r` triplets in every layer. Their importance is measured at each optimizer step, and step by step the least
important ones of the whole model lose their E, until `r` per layer are left on average. The result is saved as plain LoRA in which each
layer has a rank of its own: the sizes of peft's AdaLoRA files are in their config alone, where transformers' from_pretrained does not look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from finetune.errors import RecipeError
from finetune.events import RanksSettled, Reporter
from finetune.formatting import counted
from finetune.methods.base import Footprint, Method, MethodContext, TargetModules, attach_adapter
from finetune.methods.lora import Dropout
from finetune.recipe.settings import MethodSpec, Usual

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerCallback

FEWEST_STEPS = 4  # one to see gradients, one to weigh them, and as many at the ranks that were found


class AdaLoRA(Method):
    """Trains updates of rank `init_r` and ends with `r` per layer on average.

    `start` and `end` are the shares of the steps before the first and after the last change of a rank. `orthogonality` weighs
    ||P^T P - I||^2 + ||Q Q^T - I||^2 (equation 4), the mean over layers, which keeps triplets comparable.
    """

    title = "AdaLoRA"
    summary = "LoRA whose ranks go where they help most: for runs of hundreds of steps"
    learning_rate = 5e-3  # each rank is a single number, which starts at zero

    class Spec(MethodSpec):
        kind: Literal["adalora"] = "adalora"
        r: int = Field(8, ge=1, title="Rank (r)", description="Rank of a layer at the end, on average.", json_schema_extra=Usual(4, 32))
        init_r: Literal["auto"] | int = Field("auto", description="Rank of every layer at the start; auto is 1.5 times r.")
        alpha: int = Field(32, ge=1, description="Scale of the adapter's output (alpha / r).")
        dropout: Dropout = 0.05
        orthogonality: float = Field(
            0.1, ge=0, description="Weight of the orthogonality penalty, which keeps ranks comparable.", json_schema_extra=Usual(0, 0.5)
        )
        start: float = Field(0.1, ge=0, lt=1, description="Share of the steps before ranks start to change.")
        end: float = Field(0.3, ge=0, lt=1, description="Share of the steps after the final ranks are fixed.")
        target_modules: TargetModules = "auto"

        @model_validator(mode="after")
        def _room_to_move(self) -> AdaLoRA.Spec:
            if self.init_r != "auto" and self.init_r <= self.r:
                raise ValueError(f"init_r must be larger than r, which is {self.r}: ranks can only decrease")
            if self.start + self.end >= 1:
                raise ValueError("start + end must be below 1, so that ranks can change in between")
            return self

    def check_steps(self, spec: Spec, steps: int) -> None:
        if steps < FEWEST_STEPS:
            raise RecipeError(
                f"AdaLoRA cannot find ranks in {counted(steps, 'step')}; it needs at least {FEWEST_STEPS}.",
                hint="Train longer, for example --set training.epochs=3, or use --set method.kind=lora",
            )

    def attach(self, model: PreTrainedModel, spec: Spec, context: MethodContext) -> Any:
        """The model wrapped by peft; raises ModelError if `target_modules` match nothing, RecipeError for too few steps."""
        from peft import AdaLoraConfig

        from finetune.methods.adalora_ranks import start_orthonormal
        from finetune.methods.lora_kernel import speed_up

        steps = FEWEST_STEPS if context.total_steps is None else context.total_steps
        self.check_steps(spec, steps)
        tinit, tfinal = phases(steps, spec)
        adapted = attach_adapter(
            model,
            spec.target_modules,
            context,
            lambda targets: AdaLoraConfig(
                init_r=first_rank(spec),
                target_r=spec.r,
                total_step=steps,
                tinit=tinit,
                tfinal=tfinal,
                deltaT=1,
                lora_alpha=spec.alpha,
                lora_dropout=spec.dropout,
                target_modules=targets,
                task_type="CAUSAL_LM",
            ),
        )
        start_orthonormal(adapted)
        speed_up(adapted)
        return adapted

    def callbacks(self, model: Any, spec: Spec) -> list[TrainerCallback]:
        from finetune.methods.adalora_ranks import MoveRanks

        return [MoveRanks(model, lambda steps: phases(steps, spec))]

    def penalty(self, model: Any, spec: Spec) -> Callable[[], Tensor] | None:
        from finetune.methods.adalora_ranks import orthogonality

        return (lambda: spec.orthogonality * orthogonality(model)) if spec.orthogonality else None

    def settled_at(self, spec: Spec, steps: int) -> int:
        """Before, there are more ranks than were asked for."""
        return steps - phases(steps, spec)[1]

    def finish(self, model: Any, spec: Spec, reporter: Reporter) -> Any:
        from finetune.methods.adalora_ranks import as_lora
        from finetune.methods.lora_kernel import speed_up

        plain, ranks = as_lora(model)
        speed_up(plain)
        reporter.report(RanksSettled(ranks))
        return plain

    def footprint(self, spec: Spec) -> Footprint:
        return Footprint(adapter=True, rank=first_rank(spec), state=20)


def first_rank(spec: AdaLoRA.Spec) -> int:
    """The rank that every layer starts with: 1.5 times the final average, as in the paper."""
    return math.ceil(1.5 * spec.r) if spec.init_r == "auto" else spec.init_r


def phases(steps: int, spec: AdaLoRA.Spec) -> tuple[int, int]:
    """Steps before the ranks start to change and after they are final; in between there are always at least two."""
    before, after = round(spec.start * steps), round(spec.end * steps)
    after = min(after, steps - 2)
    return min(before, steps - after - 2), after
