"""The most memory a piece of work needed.

with PeakMemory() as peak:
    ...
peak.bytes
"""

from __future__ import annotations

import threading

import psutil
import torch

EVERY = 0.02  # seconds between looks at the process


class PeakMemory:
    """Peak bytes between entering and leaving: of the GPU's allocator where there is one, else of the whole process."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.bytes = torch.cuda.max_memory_allocated()
        else:
            self._stop.set()
            self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._stop.wait(EVERY):
                return
