"""Limits on the time, the memory and the output of a chat template, which is a program that came with a model; and its one date.

limit_sandbox()
with WATCH.watched():           # raises TooMuch in this thread
    text = tokenizer.apply_chat_template(turns, tokenize=False)

Jinja's sandbox keeps a template away from everything else; it does not keep it from running for ever or from filling the memory.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, wraps
from typing import Any

import psutil

from finetune.foreign import TEMPLATE_CHARACTERS, TEMPLATE_MEMORY, TEMPLATE_SECONDS

# Some templates write today's date into every prompt. Training, benchmark and chat must see the same one, on whatever day they happen.
TODAY = datetime(2026, 1, 1, 12)
LOOKED_EVERY = 0.05  # seconds
IDLE = 100  # looks at nothing, after which the thread that looks ends
LARGE_WIDTH = re.compile(r"\d{8}")  # in a format such as %012d


class TooMuch(Exception):
    """A template that was stopped."""


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


@cache
def limit_sandbox() -> None:
    """Have Jinja's sandbox check what one operation would make: while it does, no other thread can stop it."""
    from jinja2.filters import FILTERS
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    call = Sandbox.call

    def call_binop(self: Any, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return self.binop_table[operator](left, right)

    def limited_call(self: Any, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(called, "__wrapped__", called)
        if getattr(inner, "__name__", "") == "strftime_now" and threading.get_ident() in WATCH.jobs:
            return TODAY.strftime(*args, **kwargs)
        _check_call(getattr(inner, "__name__", ""), (getattr(inner, "__self__", None), *args), kwargs)
        return call(self, context, called, *args, **kwargs)

    Sandbox.intercepted_binops = frozenset({"*", "**", "%"})
    Sandbox.call_binop = call_binop  # type: ignore[method-assign]
    Sandbox.call = limited_call  # type: ignore[method-assign]
    for name, function in list(FILTERS.items()):
        FILTERS[name] = _limited(name, function)


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja itself hands in

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_call(name, args[first:], kwargs)
        return function(*args, **kwargs)

    return limited


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Raises TooMuch for a product, a power or a format that is too large to make."""
    if operator == "*":
        for value, times in ((left, right), (right, left)):
            if hasattr(value, "__len__") and isinstance(times, int) and len(value) * times > TEMPLATE_CHARACTERS:
                raise TooMuch("makes a text that is too long")
    elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > TEMPLATE_CHARACTERS:
        raise TooMuch("makes a number that is too large")
    elif operator == "%" and isinstance(left, str):
        _check_call("format", (left, *(right if isinstance(right, tuple) else (right,))), {})


def _check_call(name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raises TooMuch for a call that would make too long a text: `given[0]` is what the method or filter belongs to."""
    numbers = [value for value in (*given[1:], *named.values()) if isinstance(value, int)]
    if any(abs(number) > TEMPLATE_CHARACTERS for number in numbers):
        raise TooMuch("makes a text that is too long")
    text, texts = given[0], [value for value in given[1:] if isinstance(value, str)]
    if not isinstance(text, str):
        return
    if name in ("format", "format_map") and LARGE_WIDTH.search(text):
        raise TooMuch("makes a text that is too long")
    if name == "replace" and len(texts) > 1 and text.count(texts[0]) * len(texts[1]) > TEMPLATE_CHARACTERS:
        raise TooMuch("makes a text that is too long")
