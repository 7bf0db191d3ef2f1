"""The engine of several processes: torch's own launcher starts them, on this machine or on several; this process follows and decides.

    Torchrun().train(order)         # as training in this process does: the model has the trained weights afterwards

The launcher (finetune/engines/agent.py) ends all workers when one of them ends. It is a process of its own, as torchrun is on a command
line, so that nothing of it can end the run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import psutil
import torch

from finetune.engines import teacher_shards as teacher
from finetune.engines.order import give
from finetune.engines.workplace import Followed, Workplace, error_of, event_of
from finetune.errors import FinetuneError, TrainingError
from finetune.events import Event, Notice, Progress, TrainingFinished
from finetune.run.train_model import Asked, Order
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.children import python_child
from finetune.system.shell import quoted
from finetune.training.callbacks import StopOnSignal
from finetune.training.checkpoints import Checkpoints
from finetune.training.loop import Outcome
from finetune.training.parallel.processes import GONE
from finetune.training.saved_tensors import take_weights

LOOK_EVERY = 0.1  # seconds
MEET = 24 * 3600  # seconds that one node waits for the others: the first prepares data and asks teachers before it trains


class Torchrun:
    def start(self, places: Workplace, processes: int, runtime: RuntimeOptions, log: Path) -> Popen[Any]:
        """The launcher, which starts `processes` workers on this node; its input is a pipe that closes when this process ends."""
        meeting: dict[str, Any] = {"rdzv_backend": "here", "rdzv_endpoint": "127.0.0.1"}  # of agent.py
        if runtime.nodes > 1:  # the launcher of the first node opens the port
            meeting = {"rdzv_backend": "static", "rdzv_endpoint": runtime.rendezvous, "rdzv_conf": f"timeout={MEET},read_timeout={MEET}"}
            meeting |= {"nnodes": runtime.nodes, "node_rank": runtime.node_rank}
        options = {"nproc_per_node": processes, "max_restarts": 0, "log_dir": os.devnull, **meeting}  # without log_dir, empty folders stay
        return launched("finetune.engines.agent", places, options, runtime, log)

    def train(self, order: Order) -> Outcome:
        """Have workers train, and give their weights to `order.model`. Raises what the training loop does, and what `why` says."""
        context, places = order.context, _free(order.folder)
        give(order, places)
        where = f" on each of {context.runtime.nodes} nodes" if context.runtime.nodes > 1 else ""
        shard = " and with its part of the weights" if order.cut else ""
        train = f"{context.processes} processes train" if context.processes > 1 else "A process trains"
        share = ", each on its share of every step's rows" if context.processes * context.runtime.nodes > 1 else ""
        context.reporter.report(Notice(f"{train}{where}{share}{shard}."))
        outcomes: list[Outcome] = []

        def hear(worker: str, line: dict[str, Any]) -> None:
            if line["what"] == "outcome":
                facts = line["facts"]
                outcomes.append(Outcome(TrainingFinished(**facts["finished"]), facts["stopped"], facts["total_steps"]))
            else:
                context.reporter.report(_named(worker, event_of(line)))

        taught = order.setup.teachers if order.setup else []
        with parked(order.model, *(each.model for each in taught)), StopOnSignal(context.reporter) as stop:

            def pass_on() -> None:
                if stop.stopped and not places.stop.exists():
                    places.stop.touch()

            try:
                self._follow(places, context.processes, context.runtime, order.folder, hear, pass_on)
            finally:
                places.weights.unlink(missing_ok=True)  # the checkpoints are newer; the rest shows what happened
        if not outcomes:
            raise why([], order.folder)
        outcome = outcomes[-1]
        _take_weights(order, outcome)
        order.model.eval()
        shutil.rmtree(places.folder, ignore_errors=True)
        return outcome

    def ask(self, asked: Asked) -> None:
        """Have workers on this node write the missing shards of a teacher's cache. Raises what `why` says."""
        context, places = asked.context, _free(asked.folder)
        teacher.give(asked, places)
        context.reporter.report(Notice(f"{context.processes} processes run the teacher, each on its share of the rows."))
        done: dict[str, Progress] = {}

        def hear(worker: str, line: dict[str, Any]) -> None:
            event = event_of(line)
            if not isinstance(event, Progress):
                context.reporter.report(_named(worker, event))
                return
            done[worker] = event
            if len(done) == context.processes:  # before, some have not said how many tokens they have
                together = (sum(each.done for each in done.values()), sum(each.total or 0 for each in done.values()))
                context.reporter.report(replace(event, done=together[0], total=together[1]))

        with parked(*asked.models):
            alone = replace(context.runtime, nodes=1, node_rank=0, rendezvous=None)
            self._follow(places, context.processes, alone, asked.folder, hear)
        shutil.rmtree(places.folder, ignore_errors=True)

    def _follow(
        self,
        places: Workplace,
        processes: int,
        runtime: RuntimeOptions,
        folder: RunFolder,
        hear: Callable[[str, dict[str, Any]], None],
        pass_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Start workers and hand what each reports to `hear` until they have ended; raises the error that ended them."""
        followed, failures = Followed(places), list[tuple[str, dict[str, Any]]]()
        process = self.start(places, processes, runtime, folder.debug_log)
        try:
            running = True
            while running:
                running = process.poll() is None  # before the files are read, so that nothing said last is missed
                for worker, line in followed.new():
                    if line["what"] in ("error", "ended"):
                        failures.append((worker, line))
                    else:
                        hear(worker, line)
                pass_on()
                if running:
                    time.sleep(LOOK_EVERY)
        finally:
            end(process)
        if process.returncode:
            raise why(failures, folder, asked=places.asked.exists(), code=process.returncode)


def _free(folder: RunFolder) -> Workplace:
    """An empty place for the workers of a run."""
    places = Workplace(folder.run / "workers")
    shutil.rmtree(places.folder, ignore_errors=True)  # of a run that was killed
    return places


def _named(worker: str, event: Event) -> Event:
    """What a worker reports, with its number where it is not the first."""
    return (
        Notice(f"Process {worker}: {event.text}", event.level) if worker not in ("0", "launcher") and isinstance(event, Notice) else event
    )


def why(failures: list[tuple[str, dict[str, Any]]], folder: RunFolder, *, asked: bool = False, code: int = 1) -> FinetuneError:
    """The error that ended a training, or processes that `asked` a teacher: the first that was no consequence of another's end.

    `code` is the launcher's exit code.
    """
    said = sorted(((worker, line) for worker, line in failures if line["what"] == "error"), key=lambda each: float(each[1]["at"]))
    left = {worker for worker, line in said if line["facts"]["message"] == GONE}  # with nobody to train with
    said = [(worker, line) for worker, line in said if worker not in left]
    ends = [line["facts"] for _, line in failures if line["what"] == "ended" and str(line["facts"]["rank"]) not in left]
    errors = [line for _, line in sorted(said, key=lambda each: each[0] != "launcher")]  # which knows most, where it says something
    what, kept = ("Running the teacher", "Finished parts are kept. ") if asked else ("Training", "The last checkpoint is kept. ")
    if not asked and not Checkpoints(folder.checkpoints).all():
        kept = ""
    again = f"{kept}Continue: finetune-cli resume {quoted(folder.output_dir)}"
    for line in errors:
        if line["name"] != TrainingError.__name__:  # which is also what a worker says when another is gone
            return error_of(line)
    by_signal = [facts for facts in ends if facts["code"] < 0]
    for facts in by_signal:
        if -facts["code"] != signal.SIGTERM:  # which the launcher sends to the others
            return _ended(facts, asked, again)
    if errors:
        return error_of(errors[0])
    if left and not ends:
        return TrainingError(GONE, hint=f"It was on another node, which says why. {again}")
    if by_signal:
        return _ended(by_signal[0], asked, again)
    which = f"process {ends[0]['rank']} ended with exit code {ends[0]['code']}" if ends else "the processes could not be started"
    if not ends and code < 0:
        which = f"the launcher was ended by {signal.Signals(-code).name}"
    return TrainingError(f"{what} failed: {which}.", hint=f"The details are in {folder.debug_log}. {again}")


def _ended(facts: dict[str, Any], asked: bool, again: str) -> TrainingError:
    """The end of a process by a signal."""
    name = signal.Signals(-facts["code"]).name
    killed = " The system does this when memory runs out." if name == "SIGKILL" else ""
    which = f"Process {facts['rank']} that ran the teacher" if asked else f"Training process {facts['rank']}"
    return TrainingError(f"{which} was ended by {name}.{killed}", hint=again)


def launched(agent: str, places: Workplace, options: dict[str, Any], runtime: RuntimeOptions, log: Path) -> Popen[Any]:
    """The process of a module that starts the workers; its output goes to `log`."""
    (empty := runtime.cache_dir / "empty").mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as written:
        command = [agent, str(places.folder.absolute()), json.dumps(options)]
        return python_child(command, empty, stdin=PIPE, stdout=written, stderr=written)


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
        process.stdin.close()  # which ends workers that were not killed
    process.wait()


@contextmanager
def parked(*models: Any) -> Iterator[None]:
    """The models of this process in main memory: the first worker needs the whole device."""
    parameters = [parameter for model in models if isinstance(model, torch.nn.Module) for parameter in model.parameters()]
    places = [(parameter, parameter.device) for parameter in parameters if parameter.device.type != "cpu"]
    for parameter, _ in places:
        parameter.data = parameter.data.cpu()
    if torch.cuda.is_available():  # also where a model has been moved before
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
