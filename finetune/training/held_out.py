"""The held-out loss while a model trains: measured every so many steps on rows that are not trained on; the best step is remembered.

    watch = WatchHeldOut(reporter, spec, len(rows), settled_at)      # a callback, before the one that saves
    watch.chosen()                                                   # which step's weights are the result

Every new best is saved as a checkpoint of its own, which the store keeps: the choice survives a kill, and a resumed run makes the same.
Measuring draws no random number and changes no weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from finetune.events import HeldOutLoss, Notice, Reporter
from finetune.formatting import counted
from finetune.recipe import TrainingSpec
from finetune.training.checkpoints import HELD_OUT, Checkpoints
from finetune.training.kept_step import Chosen, measured_every
from finetune.training.saved_tensors import take_weights

ENDED = "ended_early"  # of a checkpoint: the training was stopped there, because the held-out loss rose


class WatchHeldOut(TrainerCallback):
    """Measures, reports, remembers the best step, and stops the training when `patience` is over. Must come before what saves.

    Steps before `settled_at`, of so many in all, are no results (of a method whose ranks still move): they are never the best.
    """

    def __init__(self, reporter: Reporter, spec: TrainingSpec, rows: int, settled_at: Callable[[int], int]) -> None:
        self.reporter, self.spec, self.rows, self.settled_at = reporter, spec, rows, settled_at
        self.trainer: Any = None
        self.best_step, self.best_loss = 0, math.inf
        self.last_step, self.last_loss = 0, math.nan
        self.waited = 0  # measurements since the best

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, of = state.global_step, state.max_steps
        if step % measured_every(self.spec.evaluate_every, of) and step < of:
            return
        measured = held_out_loss(self.trainer)
        loss = measured.pop("loss")
        self.last_step, self.last_loss = step, loss
        better = loss < self.best_loss and step >= self.settled_at(of)
        if better:
            self.best_step, self.best_loss, self.waited = step, loss, 0
            control.should_save = control.should_save or self.spec.keep == "best"
        elif self.best_step:
            self.waited += 1
        self.reporter.report(HeldOutLoss(step, of, loss, better, measured))
        if self.ended and step < of:
            control.should_training_stop = True
            self.reporter.report(
                Notice(
                    f"Stopped early at step {step:,} of {of:,}: the held-out loss was not lower than {self.best_loss:.4g}, that of step "
                    f"{self.best_step}, in {counted(self.waited, 'measurement')}."
                )
            )

    def watched_by(self, trainer: Any) -> Callable[[], dict[str, Any]]:
        """Measure that trainer; returns what each of its checkpoints should state."""
        self.trainer = trainer
        return self.facts

    @property
    def ended(self) -> bool:
        """Whether patience is over."""
        return self.spec.patience is not None and self.waited >= self.spec.patience

    def facts(self) -> dict[str, Any]:
        """What the manifest of a checkpoint states beside the training loss: of the best step its held-out loss, and an early end."""
        step = self.trainer.state.global_step
        best = {HELD_OUT: self.best_loss} if self.spec.keep == "best" and step == self.best_step else {}
        return best | ({ENDED: True, "total_steps": step} if self.ended and step == self.last_step else {})

    def chosen(self) -> Chosen | None:
        """What is kept of the training so far; None if nothing was measured yet."""
        state = self.trainer.state
        if not self.last_step or not (self.best_step or math.isfinite(self.last_loss)):
            return None
        best = (self.best_step, self.best_loss) if self.best_step else (self.last_step, self.last_loss)
        step = best[0] if self.spec.keep == "best" and self.best_step else state.global_step
        loss = best[1] if step == best[0] else self.last_loss if step == self.last_step else None
        early = self.waited if self.ended and state.global_step < state.max_steps else None
        return Chosen(step, state.max_steps, loss, *best, self.last_step, self.last_loss, self.rows, early)

    def take(self, model: Any, store: Checkpoints, *, everything: bool) -> Chosen | None:
        """What is kept, its weights given to the model; where several processes trained, their parent does the latter."""
        chosen, last, processes = self.chosen(), self.trainer.state.global_step, self.trainer.processes
        if chosen is None or chosen.step == last or not processes.first:
            return chosen
        saved = next((each for each in store.all() if each.step == chosen.step), None)
        problem = saved.problem() if saved else "it is missing"
        if saved is None or problem:
            self.reporter.report(
                Notice(f"The checkpoint of step {chosen.step}, the best, cannot be used ({problem}): the last step is kept.", "warning")
            )
            return replace(chosen, step=last, loss=self.last_loss if self.last_step == last else None)
        if processes.size == 1:
            take_weights(model, saved.folder, everything=everything)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        return {"best": [self.best_step, self.best_loss], "last": [self.last_step, self.last_loss], "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        (self.best_step, self.best_loss), (self.last_step, self.last_loss) = state["best"], state["last"]
        self.waited = state["waited"]


@torch.no_grad()
def held_out_loss(trainer: Any) -> dict[str, float]:
    """The `loss` of a SupervisedTrainer per supervised token of its `held_out` rows, without dropout, and the parts of it.

    Of several processes each reads a share of the rows, or all of them where the weights are cut, for they make each pass together; all
    know the result.
    """
    model = trainer.model
    was_training = model.training
    model.eval()
    trainer.evaluated, trainer.evaluated_tokens = {}, 0
    total, count = 0.0, 0
    try:
        for batch in _batches(trainer):
            with trainer.accelerator.autocast():
                loss, tokens = trainer.whole(partial(trainer.loss_sum, batch)) if trainer.whole else trainer.loss_sum(batch)
            total, count = total + float(loss), count + tokens
    finally:
        model.train(was_training)
    parts = {name: float(value) for name, value in trainer.evaluated.items()}
    names = sorted({name for names in trainer.processes.gather(list(parts)) for name in names})
    summed, tokens_of_all, *sums = trainer.processes.sum([total, count, *(parts.get(name, 0.0) for name in names)])
    means = [value / max(tokens_of_all, 1) for value in (summed, *sums)]
    return dict(zip(["loss", *names], means, strict=True))


def _batches(trainer: Any) -> Iterator[dict[str, Any]]:
    """The rows of this process as batches of similar length, no larger than fits."""
    rows, processes = trainer.held_out, trainer.processes
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]["input_ids"]))
    if trainer.whole is None:
        order = order[processes.rank :: processes.size]
    size = trainer.micro_batches.rows or trainer.args.per_device_train_batch_size
    for start in range(0, len(order), size):
        batch = trainer._prepare_inputs(trainer.data_collator([rows[number] for number in order[start : start + size]]))
        yield from trainer._parts(batch, 1)
