"""The engine of several processes with workers that are forked, not started: a second instead of ten. For jobs of forks.py.

registry.BUILT_IN["engines"]["forked"] = "forked_engine:Forked"
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from finetune.engines import worker
from finetune.engines.torchrun import Torchrun
from finetune.engines.workplace import Lines, Workplace
from finetune.runtime import RuntimeOptions


class Forked(Torchrun):
    def start(self, places: Workplace, processes: int, runtime: RuntimeOptions, log: Path) -> Any:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pipe, ours = os.pipe()
        launcher = os.fork()
        if launcher == 0:
            os.close(ours)
            os.setsid()
            written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(pipe, 0)
            os.dup2(written, 1)
            os.dup2(written, 2)
            os._exit(launch(places, processes, port))
        os.close(pipe)
        return Launched(launcher, ours)


class Launched:
    """As much of a Popen as an engine needs."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid, self.stdin, self.returncode = pid, os.fdopen(pipe, "wb"), None

    def poll(self) -> int | None:
        if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode


def launch(places: Workplace, processes: int, port: int) -> int:
    """What torch's launcher does: start the workers, and end the others when one ends badly."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers = {}
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in environment.items()} | {"MASTER_ADDR": "127.0.0.1"}
            os._exit(work(places, rank))
        workers[pid] = rank
    failed = 0
    while workers:
        pid, status = os.wait()
        code, rank = os.waitstatus_to_exitcode(status), workers.pop(pid)
        if code:
            Lines(places.events("launcher"), everything=True).say("ended", "process", rank=rank, code=code)
            for other in () if failed else workers:
                os.kill(other, signal.SIGTERM)
            failed = 1
    return failed


def work(places: Workplace, rank: int) -> int:
    worker.watch_parent()
    from finetune.training import saved_tensors

    saved_tensors.AT_ONCE = 20_000  # so that each process writes several files, as it does of a large model
    try:
        break_something(rank, os.environ["BREAK"])
        if os.environ["ROWS"]:
            write_rows(Path(f"{os.environ['ROWS']}-{rank}"))
        return worker.main(str(places.folder))
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()


def write_rows(path: Path) -> None:
    """Write down which rows this worker trains on, a line each: their tokens; and beside it, which share of the weights it has."""
    from finetune.training.trainer import SupervisedTrainer

    whole = SupervisedTrainer.training_step

    def noted(trainer: Any, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        parameters = list(trainer.model.parameters())
        here = sum((part.to_local() if hasattr(part, "to_local") else part).numel() for part in parameters)
        path.with_suffix(".share").write_text(str(here / sum(part.numel() for part in parameters)))
        with path.open("a") as file:
            for row, length in zip(inputs["input_ids"].tolist(), inputs.get("length", []), strict=True):
                file.write("-".join(map(str, row[:length])) + "\n")
        return whole(trainer, model, inputs, *args)

    SupervisedTrainer.training_step = noted  # type: ignore[method-assign]


def break_something(rank: int, what: str) -> None:
    """In the third step of worker 1: it is "killed", has "memory" for one row at a time or "no memory", or its loss is "nonsense".

    Or it is killed when it runs the teacher for its third "shard", or "writing" its part of the third checkpoint, for which there is no
    room on the "disk".
    """
    from finetune.distillation.caches.teacher_pass import TeacherPass
    from finetune.training import saved_tensors
    from finetune.training.trainer import SupervisedTrainer

    whole, ask = SupervisedTrainer.loss_sum, TeacherPass.ask
    asked: list[int] = []

    def asks(teacher: Any, rows: list[Any], heard: Any) -> Any:
        asked.append(len(rows))
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(teacher, rows, heard)

    def broken(trainer: Any, inputs: dict[str, Any]) -> Any:
        if trainer.state.global_step != 2:
            return whole(trainer, inputs)
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "no memory" or (what == "memory" and len(inputs["input_ids"]) > 1):
            raise MemoryError("out of memory, as a test says")
        loss, count = whole(trainer, inputs)
        return (loss * float("nan") if what == "nonsense" else loss), count

    hashed = saved_tensors.file_hash

    def hashes(path: Path) -> str:
        if "00000003" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        return hashed(path)

    def fills(stream: Any, *args: Any, **kwargs: Any) -> Any:
        if "00000003" in str(stream.path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writes(stream, *args, **kwargs)

    if what == "writing" and rank == 1:
        saved_tensors.file_hash = hashes
    elif what == "disk" and rank == 1:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter as Writer

        writes, Writer.write_data = Writer.write_data, fills  # type: ignore[method-assign]
    elif what == "shard" and rank == 1:
        TeacherPass.ask = asks  # type: ignore[method-assign]
    elif what and rank == 1:
        SupervisedTrainer.loss_sum = broken  # type: ignore[method-assign]
