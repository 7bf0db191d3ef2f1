"""Fewer threads while another program keeps cores busy: threads that wait for each other lose more than one that is not there.

train(..., callbacks=[ShareProcessor(reporter)])
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback

from finetune.events import Notice, Reporter
from finetune.hardware.threads import Neighbours, threads_beside

LOOK_EVERY = 3.0  # seconds


class ShareProcessor(TrainerCallback):
    """Looks at the other programs between two steps and sets torch's threads; says so the first time, and gives them back at the end."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.most = torch.get_num_threads()
        self.said = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.neighbours, self.looked = Neighbours(), time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.most == 1 or time.perf_counter() - self.looked < LOOK_EVERY:
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
                    "which is faster until they are done."
                )
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.set_num_threads(self.most)
