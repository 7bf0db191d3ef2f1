"""Closed streams, readers that leave, disks that are full: real ones, with commands that only print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lengths import few

ROOT = Path(__file__).parents[2]
DOOR = [sys.executable, str(ROOT / "finetune_cli.py")]


def started(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*DOOR, *arguments], cwd=folder, text=True, timeout=60, check=False, encoding="utf-8", **given)


def closing(*descriptors: int) -> Callable[[], None]:
    return lambda: [os.close(descriptor) for descriptor in descriptors] and None


def test_a_reader_that_left_ends_nothing_and_costs_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = started("schema", folder=tmp_path, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_are_lost_with_stderr_but_not_their_exit_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = started("run", "missing.yaml", folder=tmp_path, stderr=writing)
    os.close(writing)
    assert done.returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("command", [["schema"], ["runs", "."], ["runs", ".", "--json"]])
def test_a_full_disk_behind_stdout_is_said(tmp_path: Path, command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = started(*command, folder=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "The output could not be written: No space left on device.\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)], ids=str)
def test_closed_streams_are_as_good_as_empty_ones(tmp_path: Path, closed: tuple[int, ...]) -> None:
    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        return started(*arguments, folder=tmp_path, preexec_fn=closing(*closed), stdin=None)

    asked, listed = without(), without("runs", ".")
    assert asked.returncode == 2
    assert listed.returncode == 0
    if 2 not in closed:
        assert asked.stderr.startswith("There is no terminal, so no questions can be asked.\n")
        assert listed.stderr == ""


def test_names_that_are_no_ascii_work_in_the_c_locale(tmp_path: Path) -> None:
    (tmp_path / "modèles").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = started("runs", "modèles", "extra-é", folder=tmp_path, env=environment)
    assert done.returncode == 2
    done = started("runs", "modèles", folder=tmp_path, env=environment)
    assert done.returncode == 0
    assert "modèles" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("given", few([None, "XDG_CACHE_HOME", "FINETUNE_CLI_CACHE"], None))
def test_a_user_without_a_home_folder_reads_what_to_set(tmp_path: Path, given: str | None) -> None:
    homes = ("HOME", "XDG_CACHE_HOME", "FINETUNE_CLI_CACHE", "HF_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in homes}
    environment |= {given: str(tmp_path / "cache")} if given else {}
    unknown = "import pwd\ndef getpwuid(number): raise KeyError(f'getpwuid(): uid not found: {number}')\npwd.getpwuid = getpwuid\n"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{unknown}from finetune.cli import main; sys.exit(main(['doctor', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    if given:
        assert done.returncode == 0
    else:
        assert done.returncode == 2
        assert done.stderr.startswith("This user has no home folder, so there is no place for a cache.\nSet FINETUNE_CLI_CACHE")
    assert not (tmp_path / "~").exists(), "no folder of that name is made"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_whom_the_system_does_not_know() -> None:
    """Really: a number without a name, without a home, in a folder that is not his, and the Hub's cache cannot be written."""
    nobody = 54_321
    with tempfile.TemporaryDirectory() as name:  # pytest's folders let nobody else in
        place = Path(name)
        place.chmod(0o755)
        for folder in ("cache", "hub"):
            (place / folder).mkdir(mode=0o755)
        os.chown(place / "cache", nobody, nobody)
        environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")}
        environment |= {"FINETUNE_CLI_CACHE": str(place / "cache"), "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
        try:
            done = started("doctor", "--json", folder=place, env=environment, user=nobody, group=nobody, extra_groups=[])
        except PermissionError as error:
            pytest.skip(f"others cannot use this interpreter: {error.strerror}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["device"]
