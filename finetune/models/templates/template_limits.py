"""Limits on the time and the memory of a chat template, which is a program that came with a model.

limit_sandbox()                 # once
with WATCH.watched():           # raises TooMuch in this thread
    text = tokenizer.apply_chat_template(turns, tokenize=False)

While Python makes one value, no other thread can stop it, so what products, powers, calls and filters are given is weighed first. A few
contrived steps (`replace`, `translate`, a width among the values of a format) still make more than what they are given.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, wraps
from typing import Any

import psutil

from finetune.foreign import TEMPLATE_CHARACTERS, TEMPLATE_MEMORY, TEMPLATE_NUMBER, TEMPLATE_PRODUCT, TEMPLATE_SECONDS

LOOKED_EVERY = 0.05  # seconds
TOO_LONG = "makes a text that is too long"
FORMATS = ("format", "format_map", "strftime_now")
WIDE = re.compile(r"\d{8}")  # in a format such as %012d
IDLE = 100  # looks at nothing, after which the thread that looks ends

# Some templates write today's date into every prompt. Training, benchmark and chat must see the same one, on whatever day they happen.
TODAY = datetime(2026, 1, 1, 12)


class TooMuch(Exception):
    """A template that was stopped."""


@cache
def limit_sandbox() -> None:
    """Have the sandbox in which templates run weigh what each step is given, before it makes something of it, and write one date."""
    from jinja2 import runtime
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    call, from_string = Sandbox.call, Sandbox.from_string

    def limited_call(self: Any, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(called, "__wrapped__", called)
        name = getattr(inner, "__name__", "")
        _check_call(name, (getattr(inner, "__self__", None), *args, *kwargs.values()))
        ours = name == "strftime_now" and threading.get_ident() in WATCH.jobs
        return TODAY.strftime(*args, **kwargs) if ours else call(self, context, called, *args, **kwargs)

    def call_binop(self: Any, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str) and operator == "+":  # nearly all that templates do
            if max(len(left), len(right)) > TEMPLATE_CHARACTERS:
                raise TooMuch(TOO_LONG)
        elif operator == "%" and isinstance(left, str):
            _check_call("format", (left, right))
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if operator != "%" and bits > TEMPLATE_NUMBER:
                raise TooMuch("makes a number that is too large")
        else:
            for value, times in ((left, right), (right, left)):
                often = operator == "*" and hasattr(value, "__len__") and isinstance(times, int)
                _weighed(value, TEMPLATE_PRODUCT // max(1, times) if often else TEMPLATE_CHARACTERS)
        return self.binop_table[operator](left, right)

    def limited_from_string(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.filters = {name: _limited(name, function) for name, function in self.filters.items()}
        self.finalize = _weighed
        return from_string(self, *args, **kwargs)

    Sandbox.intercepted_binops = frozenset({"+", "*", "**", "%"})
    Sandbox.call_binop = call_binop  # type: ignore[method-assign]
    Sandbox.call = limited_call  # type: ignore[method-assign]
    Sandbox.from_string = limited_from_string  # type: ignore[method-assign]
    Sandbox.concat = staticmethod(_concat)
    runtime.str_join = lambda seq: _concat(str(_weighed(part)) for part in seq)


def _weighed(value: Any, most: int = TEMPLATE_CHARACTERS) -> Any:
    """The value; raises TooMuch where it would be too long as text, with what is in it: a list can contain one text many times."""
    weight, left = 0, [value]
    while left:
        part = left.pop()
        weight += len(part) if isinstance(part, str) else 1
        if weight > most:
            raise TooMuch(TOO_LONG)
        left += part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    return value


def _check_call(name: str, given: tuple[Any, ...]) -> None:
    """Raises TooMuch for a call or filter with too much, or that is to fill up so much; `given[0]` is what it belongs to."""
    form = next((value for value in given if isinstance(value, str)), "") if name in FORMATS else ""
    if WIDE.search(form) or any(isinstance(value, int) and abs(value) > TEMPLATE_CHARACTERS for value in given[1:]):
        raise TooMuch(TOO_LONG)
    _weighed(given)


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja itself hands in

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_call(name, (*args[first:], *kwargs.values()))
        return function(*args, **kwargs)

    return limited


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
    began: float = field(default_factory=time.monotonic)
    worked: float = field(default_factory=time.process_time)  # a program that was stopped (Ctrl-Z) or has to wait does not work
    memory: int = 0  # of the process, when it was first looked at
    stopped: bool = False

    @property
    def seconds(self) -> float:
        return min(time.monotonic() - self.began, time.process_time() - self.worked)


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
        ident, job = threading.get_ident(), _Job()
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
                    if not job.stopped and (job.seconds > TEMPLATE_SECONDS or memory - job.memory > TEMPLATE_MEMORY):
                        job.stopped = True
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TooMuch))


WATCH = _Watch()
