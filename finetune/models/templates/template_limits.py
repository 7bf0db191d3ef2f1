"""Limits on the time and the memory of a chat template, which is a program that came with a model.

with WATCH.watched():           # raises TooMuch in this thread
    text = tokenizer.apply_chat_template(turns, tokenize=False)

What one step of it may make is in template_steps.py: while Python makes it, nothing here can stop it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from finetune.foreign import TEMPLATE_MEMORY, TEMPLATE_SECONDS
from finetune.models.templates.template_steps import TooMuch

LOOKED_EVERY = 0.05  # seconds
IDLE = 100  # looks at nothing, after which the thread that looks ends


@dataclass
class _Job:
    began: float
    memory: int
    stopped: bool = False


class _Watch:
    """One thread that looks at all others in which a template runs, and raises TooMuch in them.

    A signal would only reach the main thread, and Windows has none.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: dict[int, _Job] = {}
        self.thread: threading.Thread | None = None
        self.process = psutil.Process()

    @contextmanager
    def watched(self) -> Iterator[None]:
        ident, job = threading.get_ident(), _Job(time.monotonic(), self.process.memory_info().rss)
        with self.lock:
            self.jobs[ident] = job
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._look, daemon=True, name="template-watch")
                self.thread.start()
        try:
            yield
        finally:
            with self.lock:
                self.jobs.pop(ident, None)
            if job.stopped:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), None)  # it may be on its way
        if job.stopped:
            raise TooMuch

    def _look(self) -> None:
        idle = 0
        while True:
            time.sleep(LOOKED_EVERY)
            with self.lock:
                idle = 0 if self.jobs else idle + 1
                if idle > IDLE:
                    self.thread = None
                    return
                for ident, job in self.jobs.items():
                    grown = self.process.memory_info().rss - job.memory
                    if not job.stopped and (time.monotonic() - job.began > TEMPLATE_SECONDS or grown > TEMPLATE_MEMORY):
                        job.stopped = True
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TooMuch))


WATCH = _Watch()
