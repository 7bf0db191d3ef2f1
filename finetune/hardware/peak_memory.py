"""Peak memory of a block of code: of this process on a CPU, of the allocator on a GPU.

with PeakMemory("cpu") as peak:
    train()
peak.bytes
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from types import TracebackType

import psutil
import torch


class PeakMemory:
    """Bytes at the highest point between enter and exit; `now()` is the present use."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes = 0
        self._done = threading.Event()
        self._process = psutil.Process()

    def __enter__(self) -> PeakMemory:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif not _reset_high_water_mark():
            # No high-water mark that can be reset (not Linux): look often instead.
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self.bytes = self.highest()

    def highest(self) -> int:
        """The highest point so far."""
        return max(self.bytes, torch.cuda.max_memory_allocated() if self.device == "cuda" else _high_water_mark() or self.now())

    def now(self) -> int:
        return int(torch.cuda.memory_allocated() if self.device == "cuda" else self._process.memory_info().rss)

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
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)
