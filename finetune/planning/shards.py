"""Whether the weights of a training are cut into shards, one for each process: where a GPU has no room for all, or `--shard yes` says so.

shards(context, memory, free)       # Shards(4, {"weights": ...}, "12.4 GB a GPU needed, 8.0 GB free: weights are sharded over 4.")
problem(context)                    # why they cannot be, in one sentence
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.formatting import size
from finetune.run_context import RunContext

CUT = ("weights", "gradients", "optimizer")  # the rest of a plan's memory each process has for itself


@dataclass(frozen=True)
class Shards:
    """In how many parts the model is cut (1: it is whole), what each GPU then needs, and the reason."""

    parts: int
    memory: dict[str, int]
    reason: str = ""


def shards(context: RunContext, memory: Mapping[str, int], free: int, *, largest: int) -> Shards:
    """The decision for a plan by arithmetic; `largest` are the bytes of what is whole at a time beside the shards."""
    processes, total = context.processes * context.runtime.nodes, sum(memory.values())
    asked = context.runtime.shard
    needed = asked == "yes" or (asked == "auto" and context.machine.device == "cuda" and total > free)
    if not needed or processes == 1 or problem(context):
        return Shards(1, dict(memory))
    parts = {name: bytes // processes if name in CUT else bytes for name, bytes in memory.items()} | {"one layer whole": largest}
    where = "a GPU" if context.machine.device == "cuda" else "a process"
    return Shards(processes, parts, f"{size(total)} {where} needed, {size(free)} free: weights are sharded over {processes}.")


def problem(context: RunContext) -> str | None:
    """Why the model of a run cannot be cut into shards, or None."""
    recipe = context.recipe
    if not context.method.can_be_cut:
        return f"The method {recipe.method.kind} trains a model that is whole on each GPU."
    if recipe.distillation.quantize:
        return "A student that computes in few bits trains whole on each GPU."
    if context.teaches_itself and context.teacher_stays:
        return "A model that is its own teacher at every step trains whole on each GPU."
    return None
