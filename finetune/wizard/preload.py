"""Imports torch and the other heavy libraries in the background while the person reads, so that the run need not wait for them.

start(after=look)     # at the first question; returns at once
wait()                # before anything that imports them itself: two threads inside transformers' lazy imports get in each other's way
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

NAME = "warm-imports"  # finetune/cli.py looks for it: an interpreter would wait for a half-imported torch before it exits
MODULES = ("torch", "transformers.trainer", "datasets", "peft", "evaluate", "rouge_score.rouge_scorer")


def start(after: Callable[[], object]) -> None:
    """Begin once `after` has returned."""
    threading.Thread(target=_import_all, args=(after,), name=NAME, daemon=True).start()


def wait() -> None:
    """Until the imports are done, if they were begun."""
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join()


def _import_all(after: Callable[[], object]) -> None:
    with suppress(Exception):  # what fails here fails again, and is reported, where it is needed
        after()
        for module in MODULES:
            import_module(module)
