"""Python processes of ours: they find the modules that this process finds, and none in the folder where a person works.

    with python_child(["finetune.run.few_steps"], folder, stdin=PIPE, stdout=PIPE) as process:

Somebody's own evaluate.py or psutil.py there would be imported instead of the library: `python -m` looks there first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import finetune

# The process starts in a folder of ours and goes on where this one is, so that relative paths mean the same. This package comes first, the
# working folder last.
START = """
import json, os, runpy, sys, typing
module, path, home, folder, *sys.argv[1:] = sys.argv[1:]
sys.path[:] = [home, *json.loads(path)]
import finetune
sys.path[:] = json.loads(path)
os.chdir(folder)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def python_command(module: str, *arguments: str) -> list[str]:
    """The words of `python -m module arguments`, to be started in an empty folder."""
    folder, home = os.getcwd(), os.path.dirname(os.path.dirname(os.path.abspath(finetune.__file__)))
    path = sorted((os.path.abspath(place) for place in sys.path if place), key=lambda place: place == folder)
    return [sys.executable, "-c", START, module, json.dumps(path), home, folder, *arguments]


def python_child(
    command: Sequence[str], empty: Path, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """`python -m command`, started in an `empty` folder; Ctrl-C does not reach it. `options` are those of Popen."""
    alone: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        python_command(*command),
        cwd=empty,
        env={**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})},
        text=True,
        encoding="utf-8",
        errors="replace",
        **alone,
        **options,
    )


def end(process: subprocess.Popen[str]) -> int:
    """Kill the process if it still runs, close our ends of its pipes, and return its exit code."""
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # what it did not read before it ended
                pipe.close()
    return code
