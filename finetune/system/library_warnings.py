"""Silence the warnings of libraries about each other, on which a person who trains a model cannot act.

    hush()        # before a library is loaded; again does nothing more

bitsandbytes warns at its import that an optional kernel is not there, and at every product of 8 bits how it computes; peft asks
transformers for something by its old name; in a notebook tqdm wants widgets for bars that nothing here draws. Everything else that they
say still appears.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

KERNEL = "Failed to load CPU gemm_4bit_forward"
ROUNDED = "MatMul8bitLt: inputs will be cast"
NO_WIDGETS = "IProgress not found"
OLD_NAME = ".*is_gradient_checkpointing.* is deprecated"


class _Without(logging.Filter):
    """Drops the records that begin with a text."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.name)


_dropped = {"bitsandbytes.backends.cpu.ops": _Without(KERNEL), "bitsandbytes.autograd._functions": _Without(ROUNDED)}


@contextmanager
def unsaid(logger: str, beginning: str) -> Iterator[None]:
    """Drop what a library says with this beginning, inside only: where it is said in other words, or does not matter."""
    log, without = logging.getLogger(logger), _Without(beginning)
    log.addFilter(without)
    try:
        yield
    finally:
        log.removeFilter(without)


def hush() -> None:
    """Drop these, wherever they come from; a program that had its own filters keeps them."""
    for logger, without in _dropped.items():
        logging.getLogger(logger).addFilter(without)  # a filter is added once
    warnings.filterwarnings("ignore", message=OLD_NAME, category=FutureWarning)
    warnings.filterwarnings("ignore", message=NO_WIDGETS)
