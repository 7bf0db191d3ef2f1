"""Children of a process that has imported everything (tests/warm.py), one for each run: a run can be killed many times in a minute.

status = Forks().run({"layer": {...}, "cache": "cache", "log": "log.txt"}, kill_after=0.3)       # -9, or the exit code

A child trains; it kills itself in the middle of the n-th file operation if the job says {"kill_at": n}. With {"processes": 2} it forks
two that train together, one of which fails as {"break": ...} says (forked_engine.py).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import warm  # noqa: E402

if TYPE_CHECKING:
    from workshop import Workshop

HANGS = 300  # seconds after which a child is taken for one that never ends


def paths(*folders: Path) -> str:
    """These folders, and then what is on PYTHONPATH: packages may be there that are nowhere else."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


class Forks:
    """One child after the other."""

    def run(self, job: dict[str, Any], *, kill_after: float | None = None) -> int:
        """Exit code of a child, or minus the signal that ended it; `kill_after` seconds it is killed from outside."""
        child = self.start(job)
        if kill_after is not None:
            time.sleep(kill_after)
            child.kill()
        return int(child.wait(HANGS))

    def start(self, job: dict[str, Any]) -> Any:
        """A Popen, or what behaves as one."""
        here = {"PYTHONPATH": paths(ROOT, Path(__file__).parent), "HF_HUB_OFFLINE": "1", "WARM_WITH": "ready_to_train"}
        code = ["-c", "import json, sys, forks; forks.child(json.loads(sys.argv[1]))", json.dumps(job)]
        with open(os.devnull, "r+b") as nothing:
            return warm.start(code, ROOT, os.environ | here, *[nothing.fileno()] * 3)


def job(shop: Workshop, layer: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a child is to do with the run of a layer."""
    return {"layer": layer, "cache": str(shop.runtime.cache_dir), "log": str(shop.folder / "log.txt"), **more}


def log(shop: Workshop) -> str:
    """What the last child of a workshop printed."""
    return (shop.folder / "log.txt").read_text()


def child(job: dict[str, Any]) -> None:
    """Do what the job says, and never come back."""
    code = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = JOBS[job.get("what", "train")](job)
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def train(job: dict[str, Any]) -> int:
    """Begin the run of a layer, or go on with it."""
    from finetune import LLMFineTuner, Recipe, RuntimeOptions, registry
    from finetune.distillation.caches import builder as cache_builder
    from finetune.errors import FinetuneError
    from finetune.events import Recorder
    from finetune.run_folder import TRAINING

    operations = FileOperations(job.get("kill_at", 0))
    if job.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], resource.RLIM_INFINITY))
    registry.BUILT_IN["engines"]["forked"] = "forked_engine:Forked"
    cache_builder.SHARD_BYTES = job.get("shard_bytes", cache_builder.SHARD_BYTES)
    os.environ |= {"BREAK": job.get("break", ""), "ROWS": job.get("rows", "")}
    engine = {"processes": job["processes"], "engine": "forked", "shard": job.get("shard", "auto")} if job.get("processes", 1) > 1 else {}
    runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=Path(job["cache"]), **engine)
    output_dir = Path(job["layer"]["output_dir"])
    try:
        if (output_dir / "run" / "recipe.yaml").exists():
            tuner = LLMFineTuner.unfinished(output_dir, runtime=runtime, reporter=Recorder())
        else:
            tuner = LLMFineTuner(Recipe.from_layers(job["layer"]), runtime=runtime, reporter=Recorder())
        # A kill may come between the end of the training and that of the process.
        if tuner.resume_state is None or tuner.resume_state.stage == TRAINING:
            tuner.train()
        if job.get("scored"):
            tuner.benchmark()
    except FinetuneError as error:
        print(f"{type(error).__name__}: {error.message} {error.hint}")
        return error.exit_code
    print(f"file operations: {operations.count}")
    return 0


def ask_teacher(job: dict[str, Any]) -> int:
    """Write a teacher cache of many shards."""
    from pico import pico, pico_rows

    from finetune.distillation.caches.builder import build_cache

    FileOperations(job["kill_at"])
    build_cache("hidden", pico("llama", seed=1), pico_rows(30), job["folder"], shard_bytes=2000)
    return 0


def distil_and_evaluate(job: dict[str, Any]) -> int:
    """Two processes of somebody's own script, as accelerate starts them."""
    from own_script import both

    return both(job)


JOBS = {"train": train, "ask_teacher": ask_teacher, "distil_and_evaluate": distil_and_evaluate}


class FileOperations:
    """Counts what makes files durable: a block written, a file synced, a name changed. SIGKILL in the middle of number `kill_at`."""

    def __init__(self, kill_at: int) -> None:
        from finetune.training.checkpoints import Sink

        self.kill_at, self.count = kill_at, 0
        Sink.write = self._counted(Sink.write, _half)  # type: ignore[method-assign]
        os.fsync = self._counted(os.fsync)
        os.replace = self._counted(os.replace)

    def _counted(self, operation: Any, partly: Any = None) -> Any:
        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count == self.kill_at:
                if partly is not None:
                    partly(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments)

        return call


def _half(sink: Any, data: Any) -> None:
    block = memoryview(data).cast("B")
    sink.file.write(block[: len(block) // 2])
    sink.file.flush()
