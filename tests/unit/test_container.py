"""The container file: what it copies and runs exists, and the files that it copies are enough to build the package.

No test builds it: that needs docker and a network. Its syntax is that of the official parser as far as instructions go.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
INSTRUCTIONS = ("FROM", "ARG", "RUN", "COPY", "ENV", "VOLUME", "WORKDIR", "ENTRYPOINT")
SHELL = ("mkdir", "if")


def instructions(name: str) -> list[str]:
    """What stands behind every instruction of that name, with its continued lines."""
    code = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in code.splitlines() if line.split(" ")[0] == name]


def copied() -> list[str]:
    return [word for line in instructions("COPY") for word in shlex.split(line)[:-1]]


def comment() -> str:
    return "\n".join(line.lstrip("# ") for line in TEXT.splitlines() if line.startswith("#"))


def test_it_has_known_instructions_and_begins_with_an_image_of_a_supported_python() -> None:
    code = "\n".join(line for line in TEXT.splitlines() if line and not line.startswith("#")).replace("\\\n", " ")
    used = [line.split(" ")[0] for line in code.splitlines()]
    assert set(used) <= set(INSTRUCTIONS)
    assert used[0] == "FROM"
    assert used[-1] == "ENTRYPOINT"
    version = re.fullmatch(r"python:3\.(\d+)-slim", instructions("FROM")[0])
    assert version
    (lowest,) = re.findall(r'^requires-python = ">=3\.(\d+)"', PROJECT, re.MULTILINE)
    assert int(version[1]) >= int(lowest)


def test_what_it_copies_is_there_and_not_ignored() -> None:
    ignored: dict[str, bool] = {}
    for path in copied():
        assert (ROOT / path).exists(), path
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#") and fnmatch.fnmatch(path, line.lstrip("!")):
                ignored[path] = not line.startswith("!")  # the last line that matches decides
    assert ignored == dict.fromkeys(copied(), False)


def test_the_programs_it_runs_are_those_of_its_image_of_uv_and_of_this_package() -> None:
    run = [shlex.split(line)[0] for line in instructions("RUN")]
    assert run[0] == "pip", "which installs uv"
    assert set(run[1:]) <= {"uv", *SHELL}
    (entry,) = instructions("ENTRYPOINT")
    assert entry == '["finetune-cli"]'
    assert re.search(r"^\[project.scripts\]\nfinetune-cli = ", PROJECT, re.MULTILINE)


def test_every_argument_is_declared_and_named_rightly_in_the_commands_above() -> None:
    declared = {line.partition("=")[0] for line in instructions("ARG")}
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == declared
    assert set(re.findall(r"--build-arg (\w+)=", comment())) <= declared
    backends = [*re.findall(r"TORCH_BACKEND=(\w+)", TEXT)]
    assert backends
    assert all(re.fullmatch(r"cpu|auto|cu1\d\d", each) for each in backends)
    for extras in re.findall(r"\[([\w,]+)\]", comment()):
        assert all(re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE) for extra in extras.split(","))


def test_an_image_for_gpus_has_the_compiler_that_kernels_are_made_with_and_one_for_processors_needs_none() -> None:
    (line,) = [line for line in instructions("RUN") if "apt-get" in line]
    for backend, installs in (("cpu", False), ("cu130", True)):
        script = f"apt-get() {{ echo apt-get $*; }}; rm() {{ :; }}; TORCH_BACKEND={backend}; {line}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert ("install" in done.stdout and " gcc " in done.stdout) is installs


def test_its_folders_are_those_that_the_commands_mount_and_the_program_reads() -> None:
    for target in re.findall(r"--volume \S+?:(/\w+)", comment()):
        assert any(target in line.split() for line in instructions("RUN")), f"{target} is made"
    (environment,) = instructions("ENV")
    assert "FINETUNE_CLI_CACHE=/cache/" in environment
    assert instructions("VOLUME") == ["/cache"]
    assert instructions("WORKDIR") == ["/data"]


@pytest.mark.slow
def test_the_copied_files_are_enough_to_build_the_package(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for path in copied():
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, source / path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert {"finetune_cli.py", "finetune/recipe/examples/no-data.yaml", "finetune/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())
