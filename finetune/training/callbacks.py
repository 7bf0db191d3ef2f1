"""What happens between two steps: progress reports, checkpoints, an orderly stop, and a stop before NaN or infinity reaches the weights."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from itertools import pairwise
from statistics import median_low
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from finetune.errors import Diverged
from finetune.events import CheckpointSaved, Notice, Reporter, TrainingStep
from finetune.hardware.peak_memory import PeakMemory, release
from finetune.system.stopping import LOST, on_signals
from finetune.training.head import causal_lm
from finetune.training.resumable import SavePolicy, random_states_now

WINDOW = 20  # steps over which the shown speed and the loss of a checkpoint are averaged
RELEASE_EVERY = 4  # steps
STOPPED = 10  # times as long as usual is no step: the program was stopped (Ctrl-Z), or the machine slept
SETTLED = 3  # steps after which the pace of a resumed training is its own
ENDS = 5  # losses at each end of a run whose mean is reported; fewer in a run of fewer than ten steps, so that no step is in both
SHOWN_ROWS = 8


class ReportSteps(TrainerCallback):
    """One TrainingStep event for each optimizer step; keeps the first and the last losses and the time, also over interruptions."""

    def __init__(self, reporter: Reporter, memory: PeakMemory) -> None:
        self.reporter = reporter
        self.memory = memory
        self.trainer: Any = None
        self.first_losses: list[float] = []
        self.last_losses: deque[float] = deque(maxlen=WINDOW)
        self.losses: list[float] = []  # of this process
        self.watch: Any = None  # what measures the held-out loss, if something does
        self.told: dict[str, float] = {}  # of the last step, beside what the Trainer logs: for trackers
        self.earlier_seconds = 0.0
        self.earlier_peak = 0
        self.earlier_pace = 0.0
        self._began = time.perf_counter()
        self._marks: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)

    @property
    def seconds(self) -> float:
        """Time spent in training, including the time before an interruption."""
        return self.earlier_seconds + time.perf_counter() - self._began

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()
        self._marks.append((self._began, self.trainer.real_tokens))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if len(self.first_losses) < ENDS:
            self.first_losses.append(loss)
        self.last_losses.append(loss)
        self.losses.append(loss)
        now, tokens = time.perf_counter(), self.trainer.real_tokens
        self._marks.append((now, tokens))
        then, tokens_then = self._marks[0]
        rate, memory = (tokens - tokens_then) / max(now - then, 1e-9), self.memory.now()
        parts = {name: float(value) for name, value in self.trainer.last_parts.items()}
        self.told = {"tokens_per_second": rate, "memory_bytes": memory, **parts}
        if self.watch is not None and self.watch.last_step == state.global_step:
            self.told["held_out_loss"] = self.watch.last_loss
        self.reporter.report(
            TrainingStep(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=float(state.epoch or 0),
                loss=loss,
                learning_rate=float(logs.get("learning_rate", 0.0)),
                tokens_per_second=rate,
                memory_bytes=memory,
                seconds_left=self._pace() * (state.max_steps - state.global_step),
                parts=parts,
            )
        )

    def ends(self, steps: int) -> tuple[float, float]:
        """The mean loss at the beginning and at the end of `steps` steps; no step is in both, unless there is only one."""
        each = max(1, min(ENDS, steps // 2))
        first, last = self.first_losses[:each], list(self.last_losses)[-each:]
        return (sum(first) / len(first), sum(last) / len(last)) if first else (math.nan, math.nan)

    def _pace(self) -> float:
        """Seconds a step takes now: without the first of this process, which pays for what happens once.

        Just after an interruption it is what it was before.
        """
        marks = list(self._marks)
        if len(marks) > 2 and marks[0][0] == self._began:
            del marks[0]
        steps = len(marks) - 1
        if steps < 1 or (self.earlier_pace and steps < SETTLED):
            return self.earlier_pace
        each = [after - before for (before, _), (after, _) in pairwise(marks)]
        return sum(min(seconds, STOPPED * median_low(each)) for seconds in each) / steps

    def facts(self) -> dict[str, Any]:
        """What the manifest of a checkpoint states about the training so far."""
        mean = sum(self.last_losses) / len(self.last_losses) if self.last_losses else None
        return {"loss": mean, "seconds": round(self.seconds, 3), "seconds_per_step": round(self._pace(), 4)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "first_losses": list(self.first_losses),
            "last_losses": list(self.last_losses),
            "seconds": self.seconds,
            "pace": self._pace(),
            "peak": self.memory.highest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first_losses = list(state["first_losses"])
        self.last_losses.extend(state["last_losses"])
        self.earlier_seconds, self.earlier_peak = state["seconds"], state["peak"]
        self.earlier_pace = state.get("pace", 0.0)


class SaveCheckpoints(TrainerCallback):
    """Saves when a checkpoint is due, at a stop and at the end; restores the state of all callbacks on resume. Must come last."""

    def __init__(self, reporter: Reporter, every: int | str) -> None:
        self.reporter = reporter
        self.trainer: Any = None
        self.policy = SavePolicy(every)
        self._random_states: dict[str, Any] | None = None
        self._step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.restore_callbacks()
        self.trainer.on_saved = self._saved
        self.trainer.wishes.asked["save"] = self._due
        self.policy.last = self.policy.clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._random_states, self._step = random_states_now(), state.global_step + 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop or self.trainer.wishes.granted("save"):
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop or self.trainer.processes.any(self._due(epoch_ends=True)):
            control.should_save = True

    def _due(self, *, epoch_ends: bool = False) -> bool:
        """Of several processes by the clock of the first, which writes."""
        return bool(self.trainer.processes.first and self.policy.due(self._step, epoch_ends=epoch_ends))

    def save_state_before_step(self) -> Any:
        """A checkpoint of the last finished step, while the next step runs but has not changed a weight."""
        self.trainer.take_back_step()
        return self.trainer.save_state(self._random_states)

    def _saved(self, step: int, total_steps: int, size: int, seconds: float) -> None:
        self.policy.saved(seconds)
        self.reporter.report(CheckpointSaved(step, total_steps, size, round(seconds, 3)))


class StopAtNonsense(TrainerCallback):
    """Raises Diverged before a loss or a gradient that is NaN or infinite reaches the weights; the state before that step is saved."""

    def __init__(self, saving: SaveCheckpoints) -> None:
        self.saving = saving

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.saving.trainer
        loss = float(trainer.step_loss)
        if not math.isfinite(loss):
            what = f"The loss is {loss}"
        elif trainer.accelerator.scaler is None and not math.isfinite(float(trainer.gradient_norm or 0.0)):  # a scaler skips such steps
            what = f"The gradient is {float(trainer.gradient_norm)}"
        else:
            return
        ours = [int(row) for batch in trainer.step_batches if "row" in batch for row in batch["row"]]
        rows = [row for rows in trainer.processes.gather(ours) for row in rows]
        named = f", rows {', '.join(map(str, rows[:SHOWN_ROWS]))}{' ...' if len(rows) > SHOWN_ROWS else ''} of the training set"
        self.saving.save_state_before_step()
        trainer.processes.any(False)  # until the first has written: when one process ends, the others are ended
        kept = f" The state after step {state.global_step} is saved." if state.global_step else ""
        raise Diverged(
            f"{what} at step {state.global_step + 1}{named if rows else ''}.{kept}",
            hint=f"Start again with a lower learning rate, for example --set training.learning_rate={args.learning_rate / 4:.0e}, "
            "and look at those rows.",
        )


class KeepPaddingId(TrainerCallback):
    """Takes back the padding id that the Trainer copies from the tokenizer into the model's configuration, if it has no embedding there.

    A model that is saved with such an id cannot be loaded.
    """

    def __init__(self, model: Any) -> None:
        inner = causal_lm(model)
        owners = (inner.config.get_text_config(), getattr(inner, "generation_config", None))
        self.before = [(owner, getattr(owner, "pad_token_id", None)) for owner in owners if owner is not None]
        self.embeddings = inner.get_input_embeddings().weight.shape[0]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for owner, before in self.before:
            if (getattr(owner, "pad_token_id", None) or 0) >= self.embeddings:
                owner.pad_token_id = before


class ReleaseMemory(TrainerCallback):
    """Keeps the memory of a long run on a CPU at that of its largest step.

    Not after every step: memory that was given back costs a page fault for every 4 KiB that is used again, up to a tenth of the time.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % RELEASE_EVERY == 0:
            release()


class StopOnSignal(TrainerCallback):
    """The first Ctrl-C, SIGTERM or SIGHUP lets the running step finish and then stops; a second Ctrl-C or SIGTERM stops at once."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.trainer: Any = None
        self.stopped = False
        self._asked = False
        self._signals = on_signals(self._on_signal)

    def __enter__(self) -> StopOnSignal:
        self._signals.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.__exit__(None, None, None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in LOST:  # it comes more than once without anybody repeating it, and must not disturb the saving
            signal.signal(number, signal.SIG_IGN)
        elif self._asked:
            raise KeyboardInterrupt
        else:
            self._asked = True
        if not self.stopped:
            self.stopped = True
            self.reporter.report(Notice("Stopping after this step and saving. Press Ctrl-C again to stop at once.", "warning"))

    def wanted(self) -> bool:
        return self.stopped

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.wishes.asked["stop"] = self.wanted

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.wishes.granted("stop"):
            self.stopped = control.should_training_stop = True
