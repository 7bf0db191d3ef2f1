"""Measure first: run a few real steps in a separate process and estimate time and memory from them.

measurement = measure_first(context)                 # in about 20 seconds
measurement.seconds, measurement.memory_bytes      # of the whole run; None for what was not reached
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from finetune.events import Progress
from finetune.run_context import RunContext
from finetune.system.children import end, python_child
from finetune.system.storage import unwritable_cache
from finetune.training.step_count import divided

SECONDS = 20.0
PATIENCE = 3  # times as long is waited for a first step, on a machine that is busy
CLOSING = 2.0  # seconds: saving the result, its card and its report
KILLED = "The test steps ran out of memory; the system killed them."
FAILED = "The test steps failed; the run would fail too."
STAGES = ("ready", "making", "teacher", "before", "asking", "training", "after")


@dataclass(frozen=True)
class Measurement:
    """The estimate from a few real steps; `problem` says that even those failed, `late` that they took too long to wait for.

    `stages` are seconds of the whole run, `memory_bytes` its highest point, and `steps` those that were really made.
    """

    stages: dict[str, float]
    memory_bytes: int | None = None
    tokens_per_second: float | None = None
    steps: int = 0
    problem: str | None = None
    late: str | None = None

    @property
    def seconds(self) -> float | None:
        """Of the whole run, or None if no step was timed."""
        if "training" not in self.stages:
            return None
        return sum(whole_run(self.stages).values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds}


def whole_run(stages: Mapping[str, float]) -> dict[str, float]:
    """The measured stages with the one that nobody waited for."""
    return {**stages, "closing": CLOSING}


def measure_first(context: RunContext, seconds: float | None = None) -> Measurement:
    """Load the models of a run, make a few of its steps and time them, in about `seconds` (SECONDS); leaves nothing behind.

    Where loading alone takes longer it makes one step, and gives up after PATIENCE times as long.
    In another process: its peak is that of a run, and if it runs out of memory only it ends. It finds the prepared data in the cache.
    Where several train, it makes the steps of one of them.
    """
    seconds = seconds or SECONDS
    batch, accumulation = divided(context.recipe.training, context.processes * context.runtime.nodes)
    share = context.recipe.with_changes({"training": {"batch_size": batch, "gradient_accumulation": accumulation}})
    runtime = replace(context.runtime, processes=context.processes)  # which the rows of such a step would not tell
    order = {"recipe": share.model_dump(mode="json"), "runtime": runtime.to_dict(), "threads": context.machine.threads, "seconds": seconds}
    found: dict[str, Any] = {}
    with context.stage("measure", "Measuring a few real steps"), _workplace(context.runtime.cache_dir) as folder:
        process = python_child(["finetune.run.few_steps"], Path(folder), stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        assert process.stdin is not None
        assert process.stdout is not None
        ended_late = threading.Event()

        def out_of_time() -> None:
            ended_late.set()  # before the end: its output ends at once, and what is asked then is why
            process.kill()

        timer = threading.Timer(PATIENCE * seconds, out_of_time)
        timer.start()
        try:
            process.stdin.write(json.dumps({**order, "folder": folder}))
            process.stdin.close()
            for line in process.stdout:
                found |= json.loads(line)
                context.reporter.report(Progress("measure", int(found.get("steps", 0)), None, "steps"))
        except BrokenPipeError:
            pass  # it is gone: see its exit code
        finally:
            timer.cancel()
            code = end(process)
    if "problem" not in found and "training" not in found:
        if ended_late.is_set():
            found["late"] = f"Nothing was measured: loading and the first step took longer than {PATIENCE * seconds:.0f} seconds here."
        else:
            found["problem"] = KILLED if code < 0 else FAILED
    return Measurement(
        {name: float(found[name]) for name in STAGES if name in found},
        found.get("memory"),
        found.get("tokens_per_second"),
        int(found.get("steps", 0)),
        found.get("problem"),
        found.get("late"),
    )


def _workplace(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of the cache; raises HardwareError."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=cache)
    except OSError as error:
        raise unwritable_cache(cache, error) from None
