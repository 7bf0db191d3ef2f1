"""How AdaLoRA's ranks move while it trains, and how the result becomes plain LoRA.

    callbacks=[MoveRanks(model, lambda steps: (steps // 10, steps // 3))]
    plain, ranks = as_lora(model)          # {"model.layers.0.self_attn.q_proj": 11, ...}

peft's RankAllocator measures the importance of triplets; this file decides when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.adalora import AdaLoraLayer
from torch import Tensor, nn
from transformers import TrainerCallback

from finetune.methods.lora_kernel import give_back
from finetune.methods.targets import taken_for_experts

ADAPTER = "default"
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of peft's RankAllocator


def svd_layers(model: Any) -> dict[str, Any]:
    """The adapted layers by their names in the base model."""
    return {name.removeprefix("base_model.model."): module for name, module in model.named_modules() if isinstance(module, AdaLoraLayer)}


def start_orthonormal(model: Any) -> None:
    """P and Q orthonormal, as the penalty wants them: with the singular values at zero this changes only the first steps."""
    for layer in svd_layers(model).values():
        for weight in (*layer.lora_A.values(), *layer.lora_B.values()):
            if not weight.is_meta:
                nn.init.orthogonal_(weight)


class MoveRanks(TrainerCallback):
    """After each optimizer step, while the gradients still exist: measure every triplet's importance, then zero those beyond the budget.

    `phases` turns the Trainer's own number of steps into those before the ranks start to change and those after they are final.
    """

    def __init__(self, model: Any, phases: Callable[[int], tuple[int, int]]) -> None:
        self.tuner = model.base_model
        self.phases = phases
        self.settled: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        config = self.tuner.peft_config[ADAPTER]
        config.total_step = state.max_steps
        config.tinit, config.tfinal = self.phases(state.max_steps)
        if state.global_step >= config.total_step - config.tfinal:  # continued after the ranks were final
            self.settled = self._kept()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        config, allocator = self.tuner.peft_config[ADAPTER], self.tuner.rankallocator
        step, last = state.global_step + 1, config.total_step - config.tfinal
        if step > last:
            self._silence()
            return
        for name, parameter in self.tuner.model.named_parameters():
            if "lora_" in name and parameter.requires_grad:
                if parameter.grad is None:  # a layer that no token of this step used
                    parameter.grad = torch.zeros_like(parameter)
                # A step that overflowed in float16, which the optimizer has skipped, must not stay in the averages forever.
                parameter.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        if step == last and not allocator.ipt:  # continued on the very step that decides
            allocator.update_ipt(self.tuner.model)
        allocator.update_and_allocate(self.tuner.model, step, force_mask=step == last)
        if step == last:
            self.settled = self._kept()
            allocator.reset_ipt()

    def state_dict(self) -> dict[str, Any]:
        """What the allocator remembers of earlier steps: importance, and the averages of it and of its spread."""
        return {name: dict(getattr(self.tuner.rankallocator, name)) for name in AVERAGES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = next(self.tuner.model.parameters()).device
        for name in AVERAGES:
            setattr(self.tuner.rankallocator, name, {key: tensor.to(device) for key, tensor in state[name].items()})

    def _kept(self) -> dict[str, Tensor]:
        return {name: layer.lora_E[ADAPTER].detach() != 0 for name, layer in svd_layers(self.tuner.model).items()}

    def _silence(self) -> None:
        """Zero again the pruned triplets that the optimizer's momentum moved."""
        with torch.no_grad():
            for name, layer in svd_layers(self.tuner.model).items():
                layer.lora_E[ADAPTER].mul_(self.settled[name])


def orthogonality(model: Any) -> Tensor:
    """Mean over layers of ||P^T P - I||^2 + ||Q Q^T - I||^2, Frobenius norms (equation 4 of arXiv 2303.10512)."""
    layers = svd_layers(model).values()
    rows = [matrix for layer in layers for matrix in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].T)]
    excess = torch.stack([matrix @ matrix.T for matrix in rows]) - torch.eye(len(rows[0]), device=rows[0].device)
    return excess.square().sum() / len(layers)


@torch.no_grad()
def as_lora(model: Any) -> tuple[Any, dict[str, int]]:
    """The same function as plain LoRA on the same base, and the rank of every adapted layer; layers of rank 0 get no adapter.

    s * P diag(E) Q becomes B A with B = P and A = s diag(E) Q over the triplets whose E is not zero.
    """
    config = model.peft_config[ADAPTER]
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    ranks: dict[str, int] = {}
    for name, layer in svd_layers(model).items():
        values, scale = layer.lora_E[ADAPTER], layer.scaling[ADAPTER] / (layer.ranknum[ADAPTER] + 1e-5)
        kept = (values != 0).squeeze(1)
        ranks[name] = int(kept.sum())
        parts[name] = (scale * values[kept] * layer.lora_A[ADAPTER][kept], layer.lora_B[ADAPTER][:, kept])
    if not any(ranks.values()):  # stopped before anything was learned
        name, layer = next(iter(svd_layers(model).items()))
        ranks[name], parts[name] = 1, (0 * layer.lora_A[ADAPTER][:1], layer.lora_B[ADAPTER][:, :1])
    adapted = {name: rank for name, rank in ranks.items() if rank}
    give_back(model)
    base = model.unload()
    taken = taken_for_experts(base)  # names that peft would read as those of experts: their weights are named instead
    weights = [f"{name}.weight" for name in adapted if name.rpartition(".")[2] in taken]
    pattern = {f"{name}.weight" if f"{name}.weight" in weights else name: rank for name, rank in adapted.items()}
    lora = LoraConfig(
        r=max(adapted.values()),
        lora_alpha=max(adapted.values()),
        rank_pattern=pattern,
        alpha_pattern=pattern,  # alpha / r = 1: the scale is in A
        lora_dropout=0.0 if weights else config.lora_dropout,
        target_modules=[name for name in adapted if f"{name}.weight" not in weights],
        target_parameters=weights or None,
        task_type="CAUSAL_LM",
    )
    plain = get_peft_model(base, lora)
    inner = plain.get_base_model()
    for name in adapted:
        made: Any = inner.get_submodule(name)
        made.lora_A[ADAPTER].weight.copy_(parts[name][0])
        made.lora_B[ADAPTER].weight.copy_(parts[name][1])
    return plain.train(model.training), ranks
