"""A table of measurements that ends in time: parts with a budget each, whose failures are lines of it; and what is left when it is over.

    table = Table(log=None, seconds=530.0)
    table.section("loss", iter([Part("ours", measure, seconds=20.0)]))
    table.told, table.missing, table.failed

Memory and waiting are those of the GPU, where there is one.
"""

from __future__ import annotations

import gc
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import SubprocessError
from types import FrameType
from typing import Any, NamedTuple

import psutil
import torch
from safetensors import SafetensorError

from finetune.errors import FinetuneError

GIB = 2**30
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SECONDS, LAST = 530.0, 20.0  # nothing goes on after the one, and in the last of them no part begins
FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ImportError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OSError,
    AssertionError,
    FinetuneError,
)
FAILURES += (ArithmeticError, MemoryError, SubprocessError, SafetensorError)
with suppress(ImportError):
    from triton.errors import TritonError  # of a kernel that does not compile, or needs more than the card has

    FAILURES += (TritonError,)


class Part(NamedTuple):
    """One piece of work that prints its own lines; it may take so many `seconds`."""

    what: str
    work: Callable[[], Any]
    seconds: float = 60.0


Parts = Iterator[Part]


class Table:
    """Lines of a table, also in a file of one JSON object a line, and the time that is left."""

    def __init__(self, log: Path | None, *, seconds: float = SECONDS) -> None:
        self.log, self.seconds, self.begin_until = log, seconds, seconds - LAST
        self.told: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.failed = False
        self.began = psutil.Process().create_time()  # importing torch counts

    @property
    def passed(self) -> float:
        return time.time() - self.began

    def section(self, name: str, parts: Parts) -> None:
        """Work through the parts; why one of them fails is one line."""
        while True:
            what = "its parts"
            try:
                part = next(parts, None)
                if part is None:
                    return
                what = part.what
                if self.passed > self.begin_until:
                    self.missing.append(f"{name}: {what}")
                    continue
                with fresh(), at_most(max(1.0, min(part.seconds, self.seconds - self.passed))):
                    part.work()
            except FAILURES as error:
                self.failed = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.tell(name, what, failed=f"{type(error).__name__}: {reason[:200]}")

    def tell(self, section: str, what: str, **numbers: Any) -> None:
        line = {"section": section, "what": what, **numbers, "at": round(self.passed, 1)}
        self.told.append(line)
        if self.log:
            with self.log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(f"| {section} | {what} | {', '.join(f'{name} {value}' for name, value in numbers.items())} |", flush=True)


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak() -> int:
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


@contextmanager
def fresh() -> Iterator[None]:
    """Memory as if nothing had run before."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


@contextmanager
def at_most(limit: float) -> Iterator[None]:
    """Raises TimeoutError inside, once so many seconds are over."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Of one repeat, after two that load kernels."""
    for _ in range(2):
        work()
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - began) / repeats
