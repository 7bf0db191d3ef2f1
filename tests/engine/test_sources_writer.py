"""A model that writes many texts at once: what all of them begin with is read once, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from letters import tokenizer
from pico import NAMES, VOCABULARY, pico

from finetune.sources import writer as module
from finetune.sources.writer import Writer

TOLD: dict[str, Any] = {"stops": [2], "most": 12, "temperature": 1.0}


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)

    def some(number: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (number,), generator=generator).tolist()

    shared = some(30)
    return [shared + some(length) for length in lengths]


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_beginning_changes_no_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico(name, dtype=torch.float64)
    given = prompts(1, 9, 4)
    monkeypatch.setattr(Writer, "TOP_P", 1e-9)  # the likeliest token, so that single rows can be compared
    monkeypatch.setattr(module, "FEWEST_SHARED", 10**6)
    alone = [Writer(model, tokenizer()).continued([prompt], seed="a", **TOLD)[0] for prompt in given]
    monkeypatch.undo()
    monkeypatch.setattr(Writer, "TOP_P", 1e-9)
    assert Writer(model, tokenizer()).continued(given, seed="a", **TOLD) == alone


def test_a_seed_decides_every_draw_whatever_was_drawn_before() -> None:
    writer = Writer(pico("llama"), tokenizer())
    given = prompts(1, 1, 1)
    first = writer.continued(given, seed="42 0", **TOLD)
    state = torch.random.get_rng_state()
    assert writer.continued(given, seed="42 1", **TOLD) != first
    torch.rand(5)
    torch.random.set_rng_state(state)
    assert writer.continued(given, seed="42 0", **TOLD) == first
    assert torch.equal(torch.random.get_rng_state(), state), "others' draws are left alone"
    assert len({tuple(tokens) for tokens, _ in first}) == 3
