"""A minute of damaged files of every kind; more of them, and other ones: python tests/engine/fuzz.py --help."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
from fuzz import fuzz
from fuzz_kinds import HEAVY, LIGHT

SEED = 11
COUNTS = {**dict.fromkeys(LIGHT, 200), **dict.fromkeys(HEAVY, 10), "recipe": 20, "run": 20, "checkpoint": 2, "xlsx": 60}
KINDS = [name for name in (*LIGHT, *HEAVY) if name != "xlsx" or find_spec("openpyxl")]


@pytest.mark.slow
def test_damaged_files_end_in_a_sentence_or_a_success() -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: fuzz(name, COUNTS[name], SEED), KINDS))
    assert [fault for _, _, faults in found for fault in faults] == []
    assert [read for read, _, _ in found] == [COUNTS[name] for name in KINDS]
    assert all(refused for (_, refused, _), name in zip(found, KINDS, strict=True) if name not in ("text", "run"))
