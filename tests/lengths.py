"""Cases that prove at length what a few of them prove too; `pytest -m long` runs the others.

@pytest.mark.parametrize("name", few(["llama", "qwen3", "phi3"], "llama"))     # llama always, qwen3 and phi3 with -m long
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *always: Any) -> list[Any]:
    """The cases as parameters of a test; those that are not `always` run are marked long, and at least one is always run."""
    listed = list(cases)
    assert always
    assert all(case in listed for case in always), f"{always} of {listed}"
    return [case if case in always else pytest.param(*_parts(case), marks=pytest.mark.long) for case in listed]


def _parts(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
