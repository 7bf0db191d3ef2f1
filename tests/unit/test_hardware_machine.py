"""The glance at the machine: fast, and right without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.hardware.doctor import _cache
from finetune.hardware.machine import _gpu, glance


def test_a_glance_starts_no_process_and_is_plausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    seen = glance(tmp_path / "not" / "there")
    assert 1 <= seen.cores <= (os.cpu_count() or 1)
    assert 0 < seen.free_memory_bytes <= seen.memory_bytes
    assert seen.free_disk_bytes > 0
    assert seen.cpu


def test_the_doctor_says_what_of_the_cache_is_large_and_can_be_deleted(tmp_path: Path) -> None:
    assert _cache(tmp_path) == []
    for name, taken in (("models/a/weights", 3_000_000), ("teachers/b/states", 9_000_000), ("generated/rows.jsonl", 50_000_000)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\0" * taken)
    ((label, said, fine),) = _cache(tmp_path)
    assert (label, fine) == ("cache", True)
    assert said == "12 MB: teachers 9 MB, models 3 MB; what you delete is made again when it is needed"


def test_the_doctor_looks_at_a_cache_in_which_a_run_renames_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, whole = tmp_path / "models" / ".a.part", tmp_path / "models" / "a"
    part.mkdir(parents=True)
    for folder in (part, tmp_path / "teachers"):
        folder.mkdir(exist_ok=True)
        (folder / "states").write_bytes(b"\0" * 2_000_000)
    scandir = os.scandir

    def renamed(place: Path) -> object:
        if str(place) == str(part):
            part.rename(whole)
        return scandir(place)

    monkeypatch.setattr("os.scandir", renamed)
    ((_, said, _),) = _cache(tmp_path)
    assert whole.exists()
    assert said.startswith("2 MB: teachers 2 MB;")


@pytest.mark.skipif(sys.platform != "linux", reason="the tool is a shell script here")
@pytest.mark.parametrize(
    ("answer", "gpu"),
    [
        ("NVIDIA, of some kind, 81559, 40779", ("NVIDIA, of some kind", 81559 * 2**20, 40779 * 2**20)),
        ("NVIDIA GB10, [N/A], [N/A]", ("NVIDIA GB10", 2**36, 2**35)),
        ("No devices were found", (None, 0, 0)),
    ],
)
def test_what_others_have_taken_of_a_gpu_is_not_free(answer: str, gpu: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("finetune.hardware.machine._memory", lambda: (2**36, 2**35))  # which some share with it
    _gpu.cache_clear()
    seen = glance(tmp_path)
    _gpu.cache_clear()
    assert (seen.gpu, seen.gpu_memory_bytes, seen.free_gpu_memory_bytes) == gpu
