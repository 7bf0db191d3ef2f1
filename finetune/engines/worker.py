"""One of the processes that train: `python -m finetune.engines.worker WORKPLACE`, with the variables that torchrun sets.

It makes the training of its order again and trains a share of it. The first worker reports, and writes the checkpoints. Or it runs a
teacher over its share of the rows: see teacher_shards.py.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist

from finetune.engines import teacher_shards as teacher
from finetune.engines.order import take
from finetune.engines.workplace import Lines, Workplace
from finetune.errors import FinetuneError, TrainingError
from finetune.events import Notice, Recorder
from finetune.system.library_warnings import hush
from finetune.training.callbacks import StopOnSignal
from finetune.training.checkpoints import Checkpoints


class StopOnFile(StopOnSignal):
    """Stops when the parent has written that somebody wants it; signals end a worker at once."""

    def __init__(self, places: Workplace) -> None:
        super().__init__(Recorder())
        self.places, self.first = places, dist.get_rank() == 0

    def __enter__(self) -> StopOnFile:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def wanted(self) -> bool:
        return self.first and self.places.stop.exists()


def by_ray(config: dict[str, str]) -> None:
    """`main` in a worker of Ray, which starts all of them again where one raises: to continue from the last checkpoint.

    Where the error would be the same again, nothing more is tried.
    """
    places = Workplace(Path(config["folder"]))
    if not places.failed.exists() and main(config["folder"], again=True):
        raise RuntimeError("A worker has failed; see the log of the run.")


def main(folder: str, *, again: bool = False) -> int:
    """Train; 0 when the share of this worker is done, 1 after an error, which is written down.

    `again`: from the newest checkpoint, which is newer than the order where workers have been lost.
    """
    hush()
    places, rank, local = Workplace(Path(folder)), int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    said = Lines(places.events(rank), everything=rank == 0)
    try:
        if not places.given.is_file():
            raise TrainingError(f"{places.order} cannot be seen on this node.", hint="All nodes need the same disk for --output-dir.")
        if places.device == "cuda":  # on a machine with GPUs there may be more processes on its processor
            torch.cuda.set_device(local)
        if places.asked.is_file():
            teacher.run(places, rank, int(os.environ["WORLD_SIZE"]), Lines(places.events(rank), everything=True))
            return 0
        order, threads = take(places)
        device = order.context.machine.device
        torch.set_num_threads(threads)
        newest = Checkpoints(order.folder.checkpoints).all()[:1] if again else []
        if newest and (order.start is None or newest[0].step > order.start.step):
            order = replace(order, start=newest[0])
            said.report(Notice(f"A worker was lost; all of them continue after step {newest[0].step}.", "warning" if rank == 0 else "info"))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        order.context.reporter.reporters.append(said)
        outcome = order.train(StopOnFile(places))
        if rank == 0:
            said.say("outcome", "training", finished=asdict(outcome.finished), stopped=outcome.stopped, total_steps=outcome.total_steps)
        dist.barrier()  # the first may still write
    except FinetuneError as error:
        said.failed(error)
        if type(error) is not TrainingError:  # which is also what a worker says when another is gone
            places.failed.touch()
        traceback.print_exc()
        return 1
    return 0


def watch_parent() -> None:
    """End this process when the parent is gone: its end of the pipe, which is our input, closes."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    watch_parent()
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # now and then torch's own threads abort an ordinary exit, long after everything is done
