"""A loss that still falls at the end is told from one that only wavers."""

from __future__ import annotations

import random

import pytest

from finetune.training.loop import still_falling


def noise(steps: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(0, 0.1) for _ in range(steps)]


def test_a_fall_beyond_the_noise_is_found_with_both_means() -> None:
    losses = [3 - step / 40 + each for step, each in enumerate(noise(40, 0))]
    assert still_falling(losses, 40) == pytest.approx((sum(losses[-20:-10]) / 10, sum(losses[-10:]) / 10))


def test_noise_around_one_level_is_hardly_ever_taken_for_a_fall() -> None:
    assert sum(still_falling(noise(40, seed), 40) is not None for seed in range(400)) <= 20


@pytest.mark.parametrize(("kept", "steps"), [(40, 20), (10, 40)])
def test_too_few_steps_or_too_few_known_losses_say_nothing(kept: int, steps: int) -> None:
    assert still_falling([3 - step / 10 for step in range(kept)], steps) is None
