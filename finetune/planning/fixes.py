"""Changes that make a run fit into memory, each with the memory it would need.

for fix in memory_fixes(context, plan(context)):
    fix.text, fix.memory_total        # "activation checkpointing (a third slower)", 1_300_000_000
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from finetune import registry
from finetune.planning.checks import adapter_problem
from finetune.planning.estimate import Plan
from finetune.planning.plan import plan
from finetune.recipe import Recipe
from finetune.run_context import RunContext


@dataclass(frozen=True)
class MemoryFix:
    """A change that lowers the memory of a run to `memory_total` bytes; `text` names it for people."""

    text: str
    changes: dict[str, Any]
    memory_total: int


def memory_fixes(context: RunContext, found: Plan, *, most: int = 3) -> list[MemoryFix]:
    """What makes a run fit into memory, least costly first: same result, then slower, then another method; nothing fits: the smallest."""
    real = found.memory_total / found.memory_by_arithmetic  # other than one if the plan was measured
    fixes = []
    known = {name: registry.load("methods", name) for name in ("lora", "qlora")}
    adapters = [name for name, method in known.items() if adapter_problem(context, method, method.Spec()) is None]
    for text, changes in _changes(context.recipe, device=context.machine.device, adapters=adapters):
        changed = context.beside(recipe=context.recipe.with_changes(changes))
        fixes.append(MemoryFix(text, changes, round(real * plan(changed).memory_total)))
    fitting = [fix for fix in fixes if fix.memory_total <= found.free_memory]
    return fitting[:most] or sorted(fixes, key=lambda fix: fix.memory_total)[:1]


def _changes(recipe: Recipe, *, device: str, adapters: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    spec, batches = recipe.training, device != "cpu"
    saved = {"activation_checkpointing": True}
    smallest: dict[str, Any] = {}
    size, together = spec.batch_size, spec.gradient_accumulation
    while batches and size > 1:  # a CPU works through a batch in pieces anyway
        size, together = size // 2, together * 2
        smallest = {"batch_size": size, "gradient_accumulation": together}
        yield f"batch size {size}, {together} batches per step (same result)", {"training": smallest}
    if spec.activation_checkpointing is not True:
        yield "activation checkpointing (a third slower)", {"training": saved}
        if smallest:
            yield "both: batch size 1 and activation checkpointing", {"training": {**smallest, **saved}}
    if "lora" in adapters and recipe.method.kind == "full":
        yield "LoRA instead of full training", {"method": {"kind": "lora"}, "training": {**smallest, **saved}}
    quantised = registry.load("methods", "qlora")
    if "qlora" in adapters and recipe.method.kind != "qlora" and not quantised.check(quantised.Spec(), device):
        yield "QLoRA: the model in 4 bits (slower)", {"method": {"kind": "qlora"}, "training": {**smallest, **saved}}
