"""Half a minute of damaged files of every kind; more of them, and other ones: python tests/engine/fuzz.py --help."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
from fuzz import fuzz
from fuzz_kinds import HEAVY, LIGHT
from lengths import few

SEED = 11
COUNTS = {**dict.fromkeys(LIGHT, 100), "jsonl": 200, **dict.fromkeys(HEAVY, 10), "recipe": 20, "run": 20, "checkpoint": 2, "xlsx": 30}
KINDS = {"files": [name for name in LIGHT if name != "xlsx" or find_spec("openpyxl")], "models": [*HEAVY]}


@pytest.mark.slow
@pytest.mark.parametrize("of", few(KINDS, "files"))
def test_damaged_files_end_in_a_sentence_or_a_success(of: str) -> None:
    kinds = KINDS[of]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: fuzz(name, COUNTS[name], SEED), kinds))
    assert [fault for _, _, faults in found for fault in faults] == []
    assert [read for read, _, _ in found] == [COUNTS[name] for name in kinds]
    assert all(refused for (_, refused, _), name in zip(found, kinds, strict=True) if name not in ("text", "run"))
