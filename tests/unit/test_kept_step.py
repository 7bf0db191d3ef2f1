"""What is said of the step whose weights are kept."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.training.kept_step import Chosen, in_words, measured_every, measurements

USUAL: dict[str, Any] = {"step": 40, "of": 57, "loss": 1.83, "best_step": 40, "best_loss": 1.83, "last_step": 57, "last_loss": 1.91}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "step 40 of 57, held-out loss 1.83; the last step had 1.91"),
        ({"last_loss": 1.8312}, "step 40 of 57, held-out loss 1.8300; the last step had 1.8312"),
        ({"last_step": 48}, "step 40 of 57, held-out loss 1.83; step 48 had 1.91"),
        ({"last_step": 40, "last_loss": 1.83}, "step 40 of 57, held-out loss 1.83, the lowest"),
        ({"step": 57, "loss": 1.91}, "step 57 of 57, held-out loss 1.91; the lowest was 1.83 at step 40"),
        ({"step": 50, "loss": None, "last_step": 48}, "step 50 of 57; the lowest was 1.83 at step 40"),
        (
            {"last_step": 52, "stopped_after": 3},
            "step 40 of 57, held-out loss 1.83; the last step had 1.91; stopped early, 3 measurements after the lowest",
        ),
        (
            {"last_step": 44, "stopped_after": 1},
            "step 40 of 57, held-out loss 1.83; the last step had 1.91; stopped early, 1 measurement after the lowest",
        ),
    ],
)
def test_the_choice_in_words(changes: dict[str, Any], words: str) -> None:
    assert in_words(Chosen(**{**USUAL, "rows": 30, **changes}).to_dict()) == words


def test_nothing_is_said_where_nothing_was_measured() -> None:
    assert in_words(None) == ""


@pytest.mark.parametrize(("asked", "steps", "every", "times"), [("auto", 57, 6, 10), ("auto", 20, 2, 10), (25, 57, 25, 3), (1, 4, 1, 4)])
def test_how_often(asked: int | str, steps: int, every: int, times: int) -> None:
    assert measured_every(asked, steps) == every
    assert measurements(asked, steps) == times
