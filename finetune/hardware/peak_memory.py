"""Peak memory of a block of code: of this process on a CPU, of the allocator on a GPU.

with PeakMemory("cpu") as peak:
    train()
peak.bytes

Pages of prepared rows and of teacher caches are not counted on Linux: they are read from files, and the system takes them back as soon as
it needs the memory.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import psutil
import torch

OF_DATA = re.compile(r"\.arrow$|/shard-\d+\.safetensors$")
LITTLE_DATA = 2**25  # bytes
LOOK_EVERY = 2.0  # seconds between looks at the pages of data; one takes milliseconds, if there is more than a little


class PeakMemory:
    """Bytes at the highest point between enter and exit; `now()` is the present use. One may be inside another."""

    _open: ClassVar[set[PeakMemory]] = set()  # the system knows one highest point for all of them

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes = 0
        self._of_data = 0
        self._looked = -LOOK_EVERY
        self._resets = False
        self._done = threading.Event()
        self._process = psutil.Process()

    def __enter__(self) -> PeakMemory:
        self._look()
        self.bytes = 0
        self._open.add(self)
        if self.device != "cuda" and not self._resets:
            # No high-water mark that can be reset (not Linux): look often instead.
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._look()
        self._open.remove(self)

    def highest(self) -> int:
        """The highest point so far."""
        self._look()
        return self.bytes

    def now(self) -> int:
        if self.device == "cuda":
            return int(torch.cuda.memory_allocated())
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._look()
        return max(0, int(self._process.memory_info().rss) - self._of_data)

    def _look(self) -> None:
        """Take what was highest since the last look, less the pages of data, of which there are more and more; then begin anew."""
        if self.device == "cuda":
            highest = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            self._of_data, self._looked = _pages_of_data(), time.monotonic()
            mark, self._resets = _high_water_mark(), _reset_high_water_mark()
            highest = ((mark if self._resets else None) or int(self._process.memory_info().rss)) - self._of_data
        for each in tuple(self._open):  # other threads look, too
            if each.device == self.device:
                each.bytes = max(each.bytes, highest)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, self.now())


def release() -> None:
    """Give freed memory back to the system: the C library keeps the gaps between tensors of ever new sizes, eventually gigabytes."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _high_water_mark() -> int | None:
    """VmHWM of /proc/self/status in bytes, where there is one."""
    return next((int(line.split()[1]) * 1024 for line in _lines("status") if line.startswith("VmHWM:")), None)


def _pages_of_data() -> int:
    """Bytes of this process's memory that are pages of prepared rows or of a teacher cache; 0 where there are few, or nothing tells."""
    mapped = [line.split(" ", 1)[0].split("-") for line in _lines("maps") if OF_DATA.search(line)]
    if sum(int(end, 16) - int(start, 16) for start, end in mapped) < LITTLE_DATA:
        return 0
    found, counts = 0, False
    for line in _lines("smaps"):  # addresses and the file, then lines such as "Rss:    12 kB"
        if "-" in line.split(" ", 1)[0]:
            counts = OF_DATA.search(line) is not None
        elif counts and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def _lines(name: str) -> list[str]:
    """What Linux says about this process in /proc/self; nothing elsewhere."""
    try:
        return Path("/proc/self", name).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
