"""What two models of a run take to answer, measured alike: each in a fresh process, in turn, several times.

    costs = measure_costs(context, ("teacher", "after"), parameters={"teacher": 134_515_008, "after": 99_100_000})
    costs["after"].tokens_per_second        # the median of the rounds

In the process of the run a model's memory cannot be told from what training left behind, and a speed of another day, or of a moment in
which another program was busy, says more about that moment than about the model.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from finetune.benchmark.generation import SPEED_PROMPTS
from finetune.benchmark.scoring import Cost, chosen_rows
from finetune.errors import HardwareError
from finetune.events import Notice, Progress
from finetune.formatting import size
from finetune.hardware.machine import inspect
from finetune.planning.stages import FEWEST_PARAMETERS
from finetune.run_context import RunContext
from finetune.system.children import end, python_child

ROUNDS = 5
FEWEST_ROUNDS = 3
SECONDS = 15.0  # in which all rounds should be done; then FEWEST_ROUNDS are enough
AT_LAST = 60.0  # seconds, on a busy machine; then one round is
PROMPT_TOKENS = 64  # of each prompt: it is answering that is timed
AT_MOST = 600.0  # seconds for loading or for one round
LIBRARIES = 700_000_000  # bytes that each process takes for torch and transformers
ROOM = 1.3  # for keys, values and activations, times the weights


def measure_costs(context: RunContext, sides: Sequence[str], parameters: Mapping[str, int]) -> dict[str, Cost]:
    """The cost of each side; empty, with a notice, if it could not be measured."""
    if min(parameters.values()) < FEWEST_PARAMETERS:
        return {}
    with context.stage("costs", "Measuring speed and memory") as done:
        try:
            costs = _in_turn(context, sides, parameters)
        except HardwareError as error:
            context.reporter.report(Notice(f"Speed and memory were not measured: {error.message}", "warning"))
            return {}
        done(f"{', '.join(f'{side} {cost.tokens_per_second:,.0f}' for side, cost in costs.items())} tokens/s")
    return costs


def _in_turn(context: RunContext, sides: Sequence[str], parameters: Mapping[str, int]) -> dict[str, Cost]:
    _check_room(context, parameters)
    prompts = {side: _prompts(context.of_teacher(context.recipe.main_teacher) if side == "teacher" else context) for side in sides}
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = {side: stack.enter_context(_process(context, side, prompts[side], folder)) for side in sides}
        for process in processes.values():
            process.heard()  # it is ready
        for process in processes.values():
            process.round()  # the first is slower: nothing is warm
        began = time.monotonic()
        for number in range(ROUNDS):
            spent = time.monotonic() - began
            if (number >= FEWEST_ROUNDS and spent > SECONDS) or (number and spent > AT_LAST):
                break
            for side, process in processes.items():
                rounds[side].append(process.round())
            context.reporter.report(Progress("costs", number + 1, ROUNDS, "rounds"))
    return {side: _median(found) for side, found in rounds.items()}


def _prompts(context: RunContext) -> list[list[int]]:
    rows = chosen_rows(context.data.held_out, context.recipe.benchmark, context.recipe.seed)
    return [list(row["prompt_ids"])[-PROMPT_TOKENS:] for row in rows[:SPEED_PROMPTS]]


def _median(rounds: list[dict[str, Any]]) -> Cost:
    last = rounds[-1]  # whose memory is the highest point of all rounds
    return Cost(statistics.median(each["tokens_per_second"] for each in rounds), last["peak_memory_bytes"], last["threads"])


def _check_room(context: RunContext, parameters: Mapping[str, int]) -> None:
    """Both models are loaded once more beside the one that is in memory: raises HardwareError if there is no room."""
    machine = inspect(context.runtime)
    each = 4 if machine.dtype == "float32" else 2
    needed = sum(round(ROOM * each * count) + (LIBRARIES if machine.device != "cuda" else 0) for count in parameters.values())
    free = machine.free_gpu_memory_bytes if machine.device == "cuda" else machine.free_memory_bytes
    if needed > free:
        raise HardwareError(f"that takes both models in memory once more, about {size(needed)}, and {size(free)} is free.")


class _Answering:
    """The process of one model."""

    def __init__(self, process: subprocess.Popen[str], side: str) -> None:
        self.process, self.side = process, side

    def heard(self) -> dict[str, Any]:
        """What it says next; raises HardwareError if it says nothing more, or that it cannot."""
        assert self.process.stdout is not None
        out_of_time = threading.Timer(AT_MOST, self.process.kill)
        out_of_time.start()
        try:
            line = self.process.stdout.readline()
        finally:  # also at Ctrl-C: Python waits for a timer before it ends
            out_of_time.cancel()
        found: dict[str, Any] = json.loads(line) if line else {"problem": f"the process of the {NAMES[self.side]} ended early."}
        if "problem" in found:
            raise HardwareError(found["problem"])
        return found

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: it says nothing more

    def round(self) -> dict[str, Any]:
        self.say("")
        return self.heard()


NAMES = {"teacher": "teacher", "before": "model before training", "after": "new model"}


@contextmanager
def _process(context: RunContext, side: str, prompts: list[list[int]], folder: Path) -> Iterator[_Answering]:
    recipe = context.recipe.model_dump(mode="json") | {"upload": None}
    process = python_child(["finetune.run.answering"], folder, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        answering = _Answering(process, side)
        runtime, threads = context.runtime.to_dict(), context.machine.threads
        answering.say(json.dumps({"recipe": recipe, "runtime": runtime, "threads": threads, "side": side, "prompts": prompts}))
        yield answering
    finally:
        end(process)
