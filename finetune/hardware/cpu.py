"""The processor by name and number: `cpu_name(), cores()` is ("AMD EPYC 7B13", 2). No torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from finetune.hardware.limits import limits


def cores() -> int:
    """The cores that this process can use, within the quota of a container where there is one."""
    return min(len(allowed_cores()), limits().processors)


def allowed_cores() -> list[int]:
    """The numbers of the cores that this process may run on, whatever its quota."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    if sys.platform == "darwin":
        found = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        if found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine()
