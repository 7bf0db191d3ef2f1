"""Limits on the time and the memory of a chat template, which is a program that came with a model.

limit_sandbox()                 # once
with WATCH.watched():           # raises TooMuch in this thread
    text = tokenizer.apply_chat_template(turns, tokenize=False)

While Python makes one value, no other thread can stop it: products and powers, and all that is written, are weighed before they are made.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import psutil

from finetune.foreign import TEMPLATE_CHARACTERS, TEMPLATE_MEMORY, TEMPLATE_NUMBER, TEMPLATE_SECONDS

LOOKED_EVERY = 0.05  # seconds
IDLE = 100  # looks at nothing, after which the thread that looks ends

# Some templates write today's date into every prompt. Training, benchmark and chat must see the same one, on whatever day they happen.
TODAY = datetime(2026, 1, 1, 12)


class TooMuch(Exception):
    """A template that was stopped."""


@cache
def limit_sandbox() -> None:
    """Have the sandbox in which templates run refuse a product, a power or a text that is too large to make, and write one date."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    call = Sandbox.call

    def dated_call(self: Any, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        ours = getattr(called, "__name__", "") == "strftime_now" and threading.get_ident() in WATCH.jobs
        return TODAY.strftime(*args, **kwargs) if ours else call(self, context, called, *args, **kwargs)

    def call_binop(self: Any, context: Any, operator: str, left: Any, right: Any) -> Any:
        for value, times in ((left, right), (right, left)):
            if hasattr(value, "__len__") and isinstance(times, int) and len(value) * times > TEMPLATE_CHARACTERS:
                raise TooMuch("makes a text that is too long")
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > TEMPLATE_NUMBER:
                raise TooMuch("makes a number that is too large")
        return self.binop_table[operator](left, right)

    Sandbox.intercepted_binops = frozenset({"*", "**"})
    Sandbox.call_binop = call_binop  # type: ignore[method-assign]
    Sandbox.call = dated_call  # type: ignore[method-assign]
    Sandbox.concat = staticmethod(_concat)


def _concat(parts: Iterable[str]) -> str:
    texts, length = [], 0
    for text in parts:
        texts.append(text)
        length += len(text)
        if length > TEMPLATE_CHARACTERS:
            raise TooMuch("writes too much")
    return "".join(texts)


@dataclass
class _Job:
    began: float
    memory: int = 0  # of the process, when it was first looked at
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
        ident, job = threading.get_ident(), _Job(time.monotonic())
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
                memory = self.process.memory_info().rss if self.jobs else 0
                for ident, job in self.jobs.items():
                    job.memory = job.memory or memory
                    if not job.stopped and (time.monotonic() - job.began > TEMPLATE_SECONDS or memory - job.memory > TEMPLATE_MEMORY):
                        job.stopped = True
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TooMuch))


WATCH = _Watch()
