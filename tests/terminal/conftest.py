"""A folder with a pico model and a few rows, for whole runs that take seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from screen import ROOT

sys.path.insert(0, str(ROOT / "tests" / "engine"))


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder."""
    folder = tmp_path_factory.mktemp("models") / "pico"
    from letters import llama, tokenizer

    llama(seed=1, layers=4).save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, pico: Path) -> Path:
    """A working folder with ./pico and ./rows.jsonl."""
    (tmp_path / "pico").symlink_to(pico)
    rows = [f'{{"prompt": "say {word}", "completion": "{word} {word}"}}\n' for word in ("cat", "dog", "bird", "fish") for _ in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(row.replace("say", f"say {at}") for at, row in enumerate(rows)))
    return tmp_path
