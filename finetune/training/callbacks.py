"""What happens between two steps: reports for the screen, an orderly stop, and a stop at a loss that is no number."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from finetune.errors import Diverged
from finetune.events import Notice, Reporter, TrainingStep
from finetune.training.memory import PeakMemory, release

WINDOW = 20  # steps over which the shown speed is averaged


class ReportSteps(TrainerCallback):
    """One TrainingStep event for each optimizer step; keeps the first and the last losses."""

    def __init__(self, reporter: Reporter, memory: PeakMemory) -> None:
        self.reporter = reporter
        self.memory = memory
        self.trainer: Any = None
        self.losses: list[float] = []
        self._marks: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._marks.append((time.perf_counter(), 0))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise Diverged(
                f"The loss became {loss} at step {state.global_step}.",
                hint=f"Lower the learning rate, for example --set training.learning_rate={args.learning_rate / 4:.0e}",
            )
        self.losses.append(loss)
        now, tokens = time.perf_counter(), self.trainer.real_tokens
        self._marks.append((now, tokens))
        then, tokens_then = self._marks[0]
        seconds_per_step = (now - then) / (len(self._marks) - 1)
        self.reporter.report(
            TrainingStep(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=float(state.epoch or 0),
                loss=loss,
                learning_rate=float(logs.get("learning_rate", 0.0)),
                tokens_per_second=(tokens - tokens_then) / max(now - then, 1e-9),
                memory_bytes=self.memory.now(),
                seconds_left=seconds_per_step * (state.max_steps - state.global_step),
                parts={name: float(value) for name, value in self.trainer.last_parts.items()},
            )
        )


class ReleaseMemory(TrainerCallback):
    """Keeps the memory of a long run on a CPU at that of its largest step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        release()


class StopOnSignal(TrainerCallback):
    """The first Ctrl-C or SIGTERM lets the running step finish and then stops; the second one stops at once."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.stopped = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():  # only there can Python set a handler
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self.reporter.report(Notice("Stopping after this step and saving. Press Ctrl-C again to stop at once.", "warning"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or self.stopped
