"""What a container allows: made folders that look like Linux's control groups, and a real group where the machine lets us make one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from finetune.hardware import cpu, machine
from finetune.hardware.limits import NONE, Limits, limits

GB = 10**9
UNLIMITED_1 = 9223372036854771712  # what version 1 says where there is no limit


def made(root: Path, paths: str, **files: object) -> Limits:
    """The limits in a made system: `paths` is /proc/self/cgroup, `files` are named below /sys/fs/cgroup with __ for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(paths)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return limits(root)


def test_where_there_are_no_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert limits(tmp_path) == Limits(NONE, NONE, NONE)
    assert made(tmp_path, "garbage\n0::/\n") == Limits()


def test_version_2_counts_page_cache_as_free(tmp_path: Path) -> None:
    files = {"memory.max": 4 * GB, "memory.current": 3 * GB, "memory.stat": f"anon {GB}\ninactive_file {2 * GB}\nactive_file 7"}
    assert made(tmp_path, "0::/\n", **files) == Limits(4 * GB, 3 * GB)


def test_version_1_is_read(tmp_path: Path) -> None:
    files = {
        "memory__docker__abc__memory.limit_in_bytes": 1_500_000_000,
        "memory__docker__abc__memory.usage_in_bytes": GB,
        "memory__docker__abc__memory.stat": f"cache 1\ninactive_file 5\ntotal_inactive_file {GB // 2}",
        "memory__memory.limit_in_bytes": UNLIMITED_1,
        "memory__memory.usage_in_bytes": 9 * GB,
        "cpu,cpuacct__docker__abc__cpu.cfs_quota_us": 150000,
        "cpu,cpuacct__docker__abc__cpu.cfs_period_us": 100000,
        "cpu,cpuacct__cpu.cfs_quota_us": -1,
        "cpu,cpuacct__cpu.cfs_period_us": 100000,
    }
    paths = "12:pids:/x\n4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"
    assert made(tmp_path, paths, **files) == Limits(1_500_000_000, GB, 2)


def test_inside_a_container_the_own_group_is_the_top_of_what_is_seen(tmp_path: Path) -> None:
    """Version 1 without a namespace: the path is the host's, the folder the container's, and it may have groups of its own."""
    files = {
        "memory__memory.limit_in_bytes": 2 * GB,
        "memory__memory.usage_in_bytes": 0,
        "memory__worker__memory.limit_in_bytes": GB,
        "memory__worker__memory.usage_in_bytes": 0,
    }
    assert made(tmp_path / "a", "4:memory:/docker/abc\n", **files).memory_bytes == 2 * GB
    assert made(tmp_path / "b", "4:memory:/docker/abc/worker\n", **files).memory_bytes == GB


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    files = {
        "user.slice__memory.max": 8 * GB,
        "user.slice__memory.current": 7 * GB,  # others in the slice have taken it
        "user.slice__memory.stat": "inactive_file 0",
        "user.slice__cpu.max": "100000 100000",
        "user.slice__app__memory.max": "max",
        "user.slice__app__memory.high": 6 * GB,
        "user.slice__app__memory.current": 1000,
        "user.slice__app__cpu.max": "max 100000",
    }
    assert made(tmp_path, "0::/user.slice/app\n", **files) == Limits(6 * GB, GB, 1)


def test_more_used_than_allowed_leaves_nothing_and_odd_files_are_no_limit(tmp_path: Path) -> None:
    assert made(tmp_path / "a", "0::/\n", **{"memory.max": GB, "memory.current": 2 * GB}).free_memory_bytes == 0
    odd = {"memory.max": "", "memory.stat": "\x00", "cpu.max": "0 0"}
    assert made(tmp_path / "b", "0::/../../x\n", **odd) == Limits()


def test_the_machine_is_no_larger_than_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cpu, machine):
        monkeypatch.setattr(module, "limits", lambda: Limits(10**8, 10**6, 1))
    seen = machine.glance()
    assert (seen.cores, seen.memory_bytes, seen.free_memory_bytes) == (1, 10**8, 10**6)


def test_torch_takes_no_more_threads_than_the_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from finetune.runtime import RuntimeOptions

    before = torch.get_num_threads()
    monkeypatch.setattr(machine, "_measured", lambda *_: ({}, "float32", ""))
    try:
        torch.set_num_threads(3)
        machine.inspect(RuntimeOptions(cache_dir=tmp_path))
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(machine, "limits", lambda: Limits(processors=2))
        machine.inspect(RuntimeOptions(cache_dir=tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# A real group, for a moment, below the one that this process is in.

PROGRAM = "import json; from finetune.hardware.limits import limits; print(json.dumps([limits().memory_bytes, limits().processors]))"


def in_a_group(controller: str, settings: dict[str, str]) -> list[int]:
    """The limits that a process finds in a real group with these settings; skips the test where no such group can be made."""
    home = Path("/sys/fs/cgroup")
    unified = (home / "cgroup.controllers").is_file()
    base = home if unified else home / controller
    listing = Path("/proc/self/cgroup")
    own = dict(line.split(":", 2)[1:] for line in listing.read_text().splitlines()) if listing.is_file() else {}
    if (path := own.get("" if unified else controller)) is None or not (base / path.lstrip("/")).is_dir():
        pytest.skip(f"the {controller} group of this process cannot be seen")
    group = base / path.lstrip("/") / f"finetune-cli-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made here: {error.strerror}")
    try:
        known = [name for name in settings if (group / name).exists()]
        if not known:
            pytest.skip(f"the {controller} controller is not handed down here")
        for name in known:
            (group / name).write_text(settings[name])
        enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')"
        done = subprocess.run([sys.executable, "-c", f"{enter}; {PROGRAM}"], capture_output=True, text=True, timeout=60, check=False)
        if "Error" in done.stderr:
            pytest.skip(f"a process cannot enter the group: {done.stderr.splitlines()[-1]}")
        return json.loads(done.stdout)
    finally:
        group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_the_memory_of_a_real_group() -> None:
    found, _ = in_a_group("memory", {"memory.max": "1500000000", "memory.limit_in_bytes": "1500000000"})
    assert abs(found - 1_500_000_000) < 2**16  # whole pages


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_the_processor_quota_of_a_real_group() -> None:
    _, found = in_a_group("cpu", {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"})
    assert found == 1


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_the_groups_of_this_very_process_can_be_read() -> None:
    found = limits()
    assert found.memory_bytes >= found.free_memory_bytes >= 0
    assert found.memory_bytes == NONE or found.memory_bytes > psutil.Process().memory_info().rss / 2
