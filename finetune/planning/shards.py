"""Whether the weights of a training are cut into shards, one for each process: where a GPU has no room for all, or `--shard yes` says so.

shards(context, memory, free)       # Shards(4, {"weights": ...}, ["12.4 GB a GPU needed, 8.0 GB free: weights are sharded over 4."])
problem(context)                    # why they cannot be, in one sentence
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.formatting import size
from finetune.run_context import RunContext

CUT = ("weights", "gradients", "optimizer")  # the rest of a plan's memory each process has for itself
ON_PROCESSOR = "cpu"


@dataclass(frozen=True)
class Shards:
    """In how many parts the model is cut (1: it is whole), what each GPU then needs, and why.

    `whole_on` is the device on which the whole model is scored; `problem` says why it has no place.
    """

    parts: int
    memory: dict[str, int]
    whole_on: str
    reasons: list[str] = field(default_factory=list)
    problem: str = ""


def shards(context: RunContext, memory: Mapping[str, int], free: int, *, beside: int, whole: int) -> Shards:
    """The decision for a plan by arithmetic; `beside` are the bytes that are gathered at a time, `whole` those of the model to score."""
    processes, total, device = context.processes * context.runtime.nodes, sum(memory.values()), context.machine.device
    needed = context.runtime.shard == "yes" or (memory_decides(context) and total > free)
    if not needed or processes == 1 or problem(context):
        return Shards(1, dict(memory), device)
    parts = {name: bytes // processes if name in CUT else bytes for name, bytes in memory.items()} | {"gathered layers": beside}
    where = "a GPU" if device == "cuda" else "a process"
    reasons = [f"{size(total)} {where} needed, {size(free)} free: weights are sharded over {processes}."]
    if device != "cuda" or whole <= free:
        return Shards(processes, parts, device, reasons)
    too_large = f"The whole model takes {size(whole)}, and a GPU has {size(free)} free"
    if context.distils:
        return Shards(
            processes, parts, device, reasons, f"{too_large}: a student is scored together with its teacher, so it has to fit one."
        )
    slow = f"{too_large}: it is scored on the processor, which is slow. --set benchmark.rows=8 shortens that."
    return Shards(processes, parts, ON_PROCESSOR, [*reasons, slow])


def memory_decides(context: RunContext) -> bool:
    """Whether it depends on a plan's memory if the model is cut."""
    several = context.processes * context.runtime.nodes > 1
    return several and context.runtime.shard == "auto" and context.machine.device == "cuda"


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
