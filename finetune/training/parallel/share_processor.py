"""Use fewer threads while another program keeps cores busy: threads that wait for each other cost more than a missing one.

with ShareProcessor(reporter) as sharing:
    train(..., callbacks=[sharing])
sharing.steps        # made with fewer threads: sums are rounded otherwise then, so the last digits are not those of a quiet run
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from transformers import TrainerCallback

from finetune.events import Notice, Reporter
from finetune.hardware.threads import Neighbours, threads_are_asked_for, threads_beside

LOOK_EVERY = 3.0  # seconds


class ShareProcessor(TrainerCallback):
    """Looks at the other programs between two steps and sets torch's threads; says so the first time, and gives them back at the end.

    A number of threads that somebody has asked for stays.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.most = torch.get_num_threads()
        self.stays = self.most == 1 or threads_are_asked_for()
        self.said = False
        self.steps = 0

    def __enter__(self) -> ShareProcessor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_num_threads(self.most)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.neighbours, self.looked = Neighbours(), time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += torch.get_num_threads() < self.most
        if self.stays or time.perf_counter() - self.looked < LOOK_EVERY:
            return
        self.looked = time.perf_counter()
        now = torch.get_num_threads()
        wanted = threads_beside(busy := self.neighbours.busy_cores(), most=self.most, now=now)
        if wanted == now:
            return
        torch.set_num_threads(wanted)
        if not self.said:
            self.said = True
            self.reporter.report(
                Notice(
                    f"Other programs keep {busy:.1f} of this machine's cores busy: training goes on with {wanted} of {self.most} threads, "
                    "which is faster until they are done. Scores can then differ a little from those of a quiet run; "
                    f"OMP_NUM_THREADS={self.most} keeps all threads."
                )
            )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
