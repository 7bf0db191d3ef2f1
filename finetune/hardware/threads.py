"""Sharing the processor: fewer threads while other programs work.

    threads_are_asked_for()             # False: nobody has set OMP_NUM_THREADS
    neighbours = Neighbours()
    neighbours.busy_cores()             # 1.0: since the last call, others kept one of our cores busy
    threads_beside(1.0, most=2, now=2)  # 1

Threads that work on one product wait for the slowest of them: on a core that another program uses too, all run at its speed. No torch.
"""

from __future__ import annotations

import os
import time

import psutil

from finetune.hardware.cpu import allowed_cores, cores

ENOUGH = 0.4  # of a core: less of another program than this costs less than a thread given up


def threads_are_asked_for() -> bool:
    """Whether somebody has said how many threads there are to be: then they stay."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


class Neighbours:
    """What other programs take of the cores that this process may use."""

    def __init__(self) -> None:
        self.own = psutil.Process()
        self.seen = self._now()

    def busy_cores(self) -> float:
        """Cores that others kept busy since the last call, or since the start; 0 where a quota hides which cores are ours."""
        (before, all_before, own_before), (now, all_now, own_now) = self.seen, self._now()
        self.seen = now, all_now, own_now
        if cores() < len(allowed_cores()):
            return 0.0
        return max(0.0, (all_now - all_before) - (own_now - own_before)) / max(now - before, 1e-9)

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, of our cores at work for anybody, and of this process."""
        times = psutil.cpu_times(percpu=True)
        found = [times[core] for core in allowed_cores() if core < len(times)]
        at_work = sum(core.user + core.system + getattr(core, "nice", 0.0) for core in found)
        own = self.own.cpu_times()
        return time.perf_counter(), at_work, own.user + own.system


def threads_beside(busy: float, *, most: int, now: int) -> int:
    """The threads to work with, `most` at best, while others keep `busy` cores busy; `now` where nothing clear has changed."""
    wanted = min(most, max(1, len(allowed_cores()) - int(busy + 1 - ENOUGH)))
    calm = busy < ENOUGH / 2
    return wanted if wanted <= now or wanted < most or calm else now
