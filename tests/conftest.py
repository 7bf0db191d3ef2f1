"""What every test starts from."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from finetune.system.library_warnings import hush

# Two workers, and the programs that they start, share the processors: threads that spin while they wait would starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Nothing here is compiled by torch, and getting ready for it takes a fifth of the imports of every program that a test starts.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# bitsandbytes warns when it is imported, under the tests' last line.
hush()

# A shell that starts the tests in the background makes them, and every program they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same under nohup, with SIGHUP.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# There are no pseudo-terminals, fork and signals of other systems on Windows, and no bash for the completion.
if sys.platform == "win32":
    collect_ignore = [
        "terminal",
        "unit/test_shell_completion.py",
        "unit/test_stopping.py",
        "unit/test_streams.py",
        "engine/test_memory_really_runs_out.py",
        "engine/test_other_systems.py",
        "engine/test_resume_faults.py",
    ]
elif sys.platform == "darwin":
    collect_ignore = ["engine/test_other_systems.py"]  # which looks for open files in /proc


# A test that is named by file and function runs, however long it is (lengths.py).
def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "not long" and any("::" in name for name in config.args):
        config.option.markexpr = ""


# Every training collects garbage. That takes half a second as long as it looks through what was imported and collected too.
def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


# What is still frozen when Python ends is never freed, and Triton's bindings would print what they lost, under the tests' last line.
def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def what_was_imported_meanwhile() -> Iterator[None]:
    yield
    gc.collect()
    gc.freeze()
