"""The engine of several processes: torch's own launcher starts them, on this machine or on several; this process follows and decides.

    Torchrun().train(order)         # as training in this process does: the model has the trained weights afterwards

The launcher (finetune/engines/agent.py) ends all workers when one of them ends. It is a process of its own, as torchrun is on a command
line, so that nothing of it can end the run.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import psutil
import torch

from finetune.children import python_child
from finetune.engines.files import Followed, Workplace, error_of, event_of
from finetune.engines.order import give
from finetune.errors import FinetuneError, TrainingError
from finetune.events import Notice, TrainingFinished
from finetune.run.train_model import Order
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.shell import quoted
from finetune.training.callbacks import StopOnSignal
from finetune.training.checkpoints import Checkpoints
from finetune.training.loop import Outcome
from finetune.training.resumable import take_weights

LOOK_EVERY = 0.1  # seconds
MEET = 24 * 3600  # seconds that one node waits for the others: the first prepares data and asks teachers before it trains


class Torchrun:
    def start(self, places: Workplace, processes: int, runtime: RuntimeOptions, log: Path) -> Popen[Any]:
        """The launcher, which starts `processes` workers on this node; its input is a pipe that closes when this process ends."""
        options: dict[str, Any] = {"nproc_per_node": processes, "max_restarts": 0, "standalone": True}
        if runtime.nodes > 1:  # the launcher of the first node opens the port
            meeting = {"rdzv_backend": "static", "rdzv_endpoint": runtime.rendezvous, "rdzv_conf": f"timeout={MEET},read_timeout={MEET}"}
            options |= {"standalone": False, "nnodes": runtime.nodes, "node_rank": runtime.node_rank, **meeting}
        command = ["finetune.engines.agent", str(places.folder.absolute()), json.dumps(options)]
        (empty := runtime.cache_dir / "empty").mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as written:
            return python_child(command, empty, stdin=PIPE, stdout=written, stderr=written)

    def train(self, order: Order) -> Outcome:
        """Have workers train, and give their weights to `order.model`. Raises what the training loop does, and what `why` says."""
        context, places = order.context, Workplace(order.folder.run / "workers")
        shutil.rmtree(places.folder, ignore_errors=True)  # of a run that was killed
        give(order, places)
        where = f" on each of {context.runtime.nodes} nodes" if context.runtime.nodes > 1 else ""
        context.reporter.report(Notice(f"{context.processes} processes train{where}, each on its share of every step's rows."))
        teachers = order.setup.teachers if order.setup else []
        with parked(order.model, *(teacher.model for teacher in teachers)), StopOnSignal(context.reporter) as stop:
            process = self.start(places, context.processes, context.runtime, order.folder.debug_log)
            try:
                outcome = self._follow(process, places, order, stop)
            finally:
                end(process)
                places.weights.unlink(missing_ok=True)  # the checkpoints are newer; the rest shows what happened
        _take_weights(order, outcome)
        order.model.eval()
        shutil.rmtree(places.folder, ignore_errors=True)
        return outcome

    def _follow(self, process: Popen[Any], places: Workplace, order: Order, stop: StopOnSignal) -> Outcome:
        """Report what the workers do until they have ended; raises the error that ended them."""
        followed, outcome, failures = Followed(places), None, list[tuple[str, dict[str, Any]]]()
        running = True
        while running:
            running = process.poll() is None  # before the files are read, so that nothing said last is missed
            for worker, line in followed.new():
                if line["what"] == "event":
                    event = event_of(line)
                    if worker != "0" and isinstance(event, Notice):
                        event = Notice(f"Process {worker}: {event.text}", event.level)
                    order.context.reporter.report(event)
                elif line["what"] == "outcome":
                    facts = line["facts"]
                    outcome = Outcome(TrainingFinished(**facts["finished"]), facts["stopped"], facts["total_steps"])
                else:
                    failures.append((worker, line))
            if stop.stopped and not places.stop.exists():
                places.stop.touch()
            if running:
                time.sleep(LOOK_EVERY)
        if outcome is None or process.returncode:
            raise why(failures, order.folder)
        return outcome


def why(failures: list[tuple[str, dict[str, Any]]], folder: RunFolder) -> FinetuneError:
    """The error that ended a training: the first that was no consequence of another's end."""
    ends = [line["facts"] for _, line in failures if line["what"] == "ended"]
    errors = sorted((line for _, line in failures if line["what"] == "error"), key=lambda line: float(line["at"]))
    again = f"The last checkpoint is kept. Continue: finetune-cli resume {quoted(folder.output_dir)}"
    for line in errors:
        if line["name"] != TrainingError.__name__:  # which is also what a worker says when another is gone
            return error_of(line)
    for facts in ends:
        if facts["code"] < 0 and -facts["code"] != signal.SIGTERM:  # which the launcher sends to the others
            name = signal.Signals(-facts["code"]).name
            killed = " The system does this when memory runs out." if name == "SIGKILL" else ""
            return TrainingError(f"Training process {facts['rank']} was ended by {name}.{killed}", hint=again)
    if errors:
        return error_of(errors[0])
    which = f"process {ends[0]['rank']} ended with exit code {ends[0]['code']}" if ends else "the processes could not be started"
    return TrainingError(f"Training failed: {which}.", hint=f"The details are in {folder.debug_log}. {again}")


def end(process: Popen[Any]) -> None:
    """The launcher and everything that it has started, if they still run."""
    if process.poll() is None:
        try:
            workers = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            workers = []
        process.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                worker.kill()
    if process.stdin is not None:
        process.stdin.close()  # of which workers that nobody has killed hear
    process.wait()


@contextmanager
def parked(*models: Any) -> Iterator[None]:
    """The models of this process in main memory: the first worker needs the whole device."""
    parameters = [parameter for model in models if isinstance(model, torch.nn.Module) for parameter in model.parameters()]
    places = [(parameter, parameter.device) for parameter in parameters if parameter.device.type != "cpu"]
    for parameter, _ in places:
        parameter.data = parameter.data.cpu()
    if places and torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for parameter, device in places:
            parameter.data = parameter.data.to(device)


def _take_weights(order: Order, outcome: Outcome) -> None:
    """What was trained, out of the checkpoint of the step that is kept: the last one, or the best."""
    step = (outcome.finished.kept or {}).get("step", outcome.finished.steps)
    saved = Checkpoints(order.folder.checkpoints).all()
    found = next((each for each in saved if each.step == step), None)
    if found is None:
        raise TrainingError(f"The weights of step {step} are to be kept, and the last checkpoint is of step {saved[0].step}.")
    take_weights(order.model, found.folder, everything=order.context.student_is_made)
