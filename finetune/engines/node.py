"""What the command does on every node but the first: its processes train, and the first node does everything else.

serve(recipe, runtime, print)      # 0 when the training is over
"""

from __future__ import annotations

from collections.abc import Callable

from finetune.engines.torchrun import Torchrun, end
from finetune.engines.workplace import Workplace
from finetune.errors import TrainingError
from finetune.events import Fanout
from finetune.recipe import Recipe
from finetune.run.check import check_engine
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions


def serve(recipe: Recipe, runtime: RuntimeOptions, say: Callable[[str], None]) -> int:
    """Wait for the first node, and train with it; raises TrainingError when the training ends otherwise than well."""
    context = RunContext(recipe, runtime, Fanout())
    check_engine(context)
    log = runtime.cache_dir / f"node-{runtime.node_rank}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    wait = f"{context.processes} processes wait" if context.processes > 1 else "a process waits"
    say(f"This is node {runtime.node_rank} of {runtime.nodes}, where {wait} for {runtime.rendezvous}.")
    process = Torchrun().start(Workplace(RunFolder(recipe.output_dir).run.absolute() / "workers"), context.processes, runtime, log)
    try:
        code = process.wait()
    finally:
        end(process)
    if code:
        raise TrainingError("The training on this node has failed, or another node has.", hint=f"The details are in {log}.")
    return 0
