"""What this process may use where a container or a service manager limits it: control groups of Linux, versions 1 and 2. No torch.

    limits().memory_bytes, limits().processors        # 1_500_000_000, 2

A group limits itself and everything below it, so the groups above that of this process count as well as its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NONE = sys.maxsize
UNLIMITED = 2**62  # version 1 writes about 2^63 for "no limit"


@dataclass(frozen=True)
class Limits:
    """Bytes and whole processors; NONE where nothing is limited."""

    memory_bytes: int = NONE
    free_memory_bytes: int = NONE
    processors: int = NONE


@dataclass(frozen=True)
class _Memory:
    """The files of one version: several limits, what is used, and the entry of memory.stat for page cache that is given up on demand."""

    limits: tuple[str, ...]
    used: str
    reclaimable: str


VERSION_1 = _Memory(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Memory(("memory.max", "memory.high"), "memory.current", "inactive_file")  # above `high` a process is slowed to a crawl


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of all groups that this process is in, read again each time; `root` is for tests."""
    paths = _paths(root / "proc/self/cgroup")
    home = root / "sys/fs/cgroup"
    unified = [folder for base in (home, home / "unified") for folder in _groups(base, paths.get("", "/"))]
    memory = [(folder, VERSION_2) for folder in unified]
    memory += [(folder, VERSION_1) for folder in _groups(home / "memory", paths.get("memory", "/"))]
    shares = [_share(folder, "cpu.max") for folder in unified]
    for name in ("cpu", "cpu,cpuacct"):
        shares += [_share(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us") for folder in _groups(home / name, paths.get("cpu", "/"))]
    found = [allowed for folder, files in memory if (allowed := _allowed(folder, files))]
    return Limits(
        memory_bytes=min([total for total, _ in found], default=NONE),
        free_memory_bytes=min([free for _, free in found], default=NONE),
        processors=min([math.ceil(share) for share in shares if share], default=NONE),
    )


def _paths(listing: Path) -> dict[str, str]:
    """The group of this process for each controller; that of version 2 has no name."""
    lines = [line.split(":", 2) for line in _text(listing).splitlines() if line.count(":") >= 2]
    return {controller: path for _, controllers, path in lines for controller in controllers.split(",")}


def _groups(base: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of those above it; inside a container only the last part of the path may be visible."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    seen = (base.joinpath(*parts[hidden:]) for hidden in range(len(parts) + 1))
    folder = next((folder for folder in seen if folder.is_dir()), base)
    yield folder
    while folder != base:
        folder = folder.parent
        yield folder


def _allowed(folder: Path, files: _Memory) -> tuple[int, int] | None:
    """The bytes that a group may have, and those of them that are free."""
    known = [limit for name in files.limits if (limit := _number(_text(folder / name))) is not None and limit < UNLIMITED]
    if not known:
        return None
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    used = (_number(_text(folder / files.used)) or 0) - (_number(stat.get(files.reclaimable, "")) or 0)
    return min(known), max(0, min(known) - max(0, used))


def _share(folder: Path, *names: str) -> float | None:
    """The processors that a group may keep busy: a quota of time in each period."""
    quota, period = ([_number(word) for name in names for word in _text(folder / name).split()] + [None, None])[:2]
    return quota / period if quota and period and quota > 0 else None


def _number(text: str) -> int | None:
    """None for "max", and for a file that is not there."""
    try:
        return int(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not Linux, another version, or a group that is gone
