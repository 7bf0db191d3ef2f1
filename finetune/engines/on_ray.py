"""The engine for a Ray cluster of one's own: Ray Train starts the same workers as torchrun does, and again when some are lost.

    Ray().train(order)          # as the engine of several processes; --on ray --nproc N

The cluster is the one that RAY_ADDRESS names or that runs on this machine; where there is none, Ray starts one here for the run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

from finetune.engines.torchrun import Torchrun, launched
from finetune.engines.workplace import Workplace
from finetune.errors import BadInput
from finetune.runtime import RuntimeOptions

TRIES = 4  # in all: of a training whose workers are lost
INSTALL = "pip install 'ray[train]'"


class Ray(Torchrun):
    def check(self, runtime: RuntimeOptions) -> None:
        """Raises BadInput without the package, and for options that are Ray's business."""
        if find_spec("ray") is None:
            raise BadInput("The engine `ray` needs the package ray, which is not installed.", hint=f"Install it: {INSTALL}")
        if runtime.processes is None:
            raise BadInput("The engine `ray` needs the number of workers.", hint="--nproc N, at most the GPUs of the cluster")
        if runtime.nodes > 1:
            raise BadInput("Ray knows the nodes of its cluster itself.", hint="Leave --nodes out; --nproc N is the number of all workers.")

    def start(self, places: Workplace, processes: int, runtime: RuntimeOptions, log: Path) -> Popen[Any]:
        return launched("finetune.engines.ray_agent", places, {"workers": processes, "retries": TRIES - 1}, runtime, log)
