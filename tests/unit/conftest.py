"""These tests know what is built in, and nothing that packages on this machine add: they compare whole lists and sentences."""

from __future__ import annotations

import pytest

from finetune import registry


@pytest.fixture(autouse=True)
def no_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", lambda kind: {})
