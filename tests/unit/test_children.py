"""Processes of ours and the program itself, started in a folder where a person keeps modules named like libraries."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import finetune
from finetune.system.children import end, python_child

ROOT = Path(__file__).parents[2]
SHADOWS = (
    "evaluate",
    "psutil",
    "torch",
    "finetune",
    "sitecustomize",
    "usercustomize",
    "random",
    "types",
    "typing",
    "enum",
    "re",
    "json",
    "runpy",
)
WHERE = "import importlib.util as u; print([u.find_spec(name).origin for name in ('evaluate', 'psutil', 'json', 'finetune')])"


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose modules say that they were run."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("open('RUN', 'a').write(__name__)\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("first", [None, "", "."], ids=["not on the path", "as ''", "by its name"])
def test_a_child_runs_nothing_of_the_working_folder(
    theirs: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, first: str | None
) -> None:
    library = tmp_path_factory.mktemp("library")
    (library / "told.py").write_text(f"import os, sys\n{WHERE}\nprint([os.getcwd()] + sys.argv[1:])\n")
    monkeypatch.syspath_prepend(library)
    if first is not None:
        monkeypatch.syspath_prepend(first and os.path.abspath(first))
    child = python_child(["told", "--a", "b c"], tmp_path_factory.mktemp("empty"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, wrong = child.communicate(timeout=60)
    assert (child.returncode, wrong) == (0, "")
    origins, place = said.splitlines()
    assert str(theirs) not in origins
    assert finetune.__file__ in origins  # the one that this process runs, installed or not
    assert place == str([str(theirs), "--a", "b c"]), "relative paths mean the same as here"
    assert not (theirs / "RUN").exists()


def test_a_child_finds_this_package_where_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told.py").write_text("import finetune\nprint(finetune.__file__)\n")
    elsewhere = [place for place in sys.path if place and not (Path(place) / "finetune").is_dir()]  # as in a notebook in a checkout
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", *elsewhere])
    child = python_child(["told"], tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.communicate(timeout=60) == (f"{finetune.__file__}\n", "")


def test_the_program_in_a_checkout_takes_libraries_for_what_they_are(theirs: Path) -> None:
    (theirs / "finetune.py").unlink()
    (theirs / "finetune").symlink_to(ROOT / "finetune")
    (theirs / "finetune_cli.py").write_bytes((ROOT / "finetune_cli.py").read_bytes())
    done = subprocess.run([sys.executable, "finetune_cli.py", "schema"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    code = f"import pkgutil, runpy, sys; sys.path[0] = {str(theirs)!r}; runpy.run_path('finetune_cli.py'); {WHERE}"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=theirs, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert str(theirs / "evaluate.py") not in done.stdout
    assert str(theirs / "psutil.py") not in done.stdout
    assert str(theirs / "finetune" / "__init__.py") in done.stdout
    assert not (theirs / "RUN").exists()


def test_the_working_folder_is_no_place_for_modules_unless_the_package_is_in_it(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = [place for place in sys.path if place not in ("", str(ROOT))]
    for folder, then in ((theirs, elsewhere), (ROOT, [*elsewhere, str(ROOT)])):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [str(folder), *elsewhere])
        runpy.run_path(str(ROOT / "finetune" / "__main__.py"), run_name="the module")
        assert sys.path == then


def test_a_child_that_is_ended_leaves_no_pipe_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asleep.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(tmp_path)
    child = python_child(["asleep"], tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    child.stdin.write("never read, and still in the buffer when the child is gone")
    assert end(child) == child.returncode != 0
    assert child.stdin.closed
    assert child.stdout.closed
