"""Threads give way to other programs: what others take of our cores, and how many threads are worth having beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.hardware import threads
from finetune.hardware.threads import Neighbours, threads_beside

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("busy", "now", "wanted"),
    [
        (0.0, 4, 4),
        (0.3, 4, 4),  # less than a thread is worth
        (0.5, 4, 3),
        (1.0, 4, 3),
        (2.0, 4, 2),
        (9.0, 4, 1),  # never none
        (1.0, 2, 3),  # one of them has ended
        (0.3, 3, 3),  # not clearly over
        (0.1, 3, 4),
    ],
)
def test_a_thread_is_given_up_for_each_core_that_others_keep_busy(
    monkeypatch: pytest.MonkeyPatch, busy: float, now: int, wanted: int
) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: [0, 1, 2, 3])
    assert threads_beside(busy, most=4, now=now) == wanted


def test_more_cores_than_torch_uses_threads_cost_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: list(range(8)))
    assert threads_beside(3.0, most=4, now=4) == 4
    assert threads_beside(5.0, most=4, now=4) == 3


class Clock:
    """Processor times as psutil tells them, and the time on the wall."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
        self.wall, self.own, self.all = 0.0, 0.0, [0.0] * 4
        monkeypatch.setattr(threads, "allowed_cores", lambda: [0, 1])
        monkeypatch.setattr(threads, "cores", lambda: cores)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(
            threads.psutil, "cpu_times", lambda percpu: [SimpleNamespace(user=busy, system=0.0, nice=0.0) for busy in self.all]
        )
        monkeypatch.setattr(
            threads.psutil, "Process", lambda: SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=self.own, system=0.0))
        )

    def pass_by(self, *, own: float, others: float, elsewhere: float = 0.0) -> None:
        self.wall, self.own = self.wall + 10, self.own + own
        self.all = [self.all[0] + own, self.all[1] + others, self.all[2] + elsewhere, self.all[3] + elsewhere]


def test_what_others_take_is_what_our_cores_did_less_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, cores=2)
    seen = Neighbours()
    clock.pass_by(own=8, others=9, elsewhere=10)
    assert seen.busy_cores() == pytest.approx(0.9), "the cores that are not ours do not count"
    clock.pass_by(own=9, others=0)
    assert seen.busy_cores() == 0.0, "since the last call"


def test_under_a_quota_nobody_knows_which_cores_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, cores=1)
    seen = Neighbours()
    clock.pass_by(own=1, others=9)
    assert seen.busy_cores() == 0.0


@pytest.mark.parametrize(("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")])
def test_waiting_threads_spin_briefly_unless_somebody_has_said_how_long(given: dict[str, str], spins: str) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    code = "import os, finetune; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**bare, **given, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.strip() == spins
