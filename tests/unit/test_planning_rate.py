"""How many operations a second training reaches, by the speed of large products: on a CPU the rest of the work counts too; and how
much faster a smaller student answers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from finetune.planning.estimate import _speed_up
from finetune.planning.seconds import operations_per_second


def rate(device: str, dtype: str, **gflops: float) -> float:
    context: Any = SimpleNamespace(machine=SimpleNamespace(device=device, dtype=dtype, gflops=gflops))
    return operations_per_second(context)


def test_float32_reaches_less_than_a_quarter_of_it() -> None:
    assert rate("cpu", "float32", float32=450.0, bfloat16=900.0) == pytest.approx(100e9)


def test_bfloat16_of_three_times_the_speed_trains_half_as_fast_again() -> None:
    assert rate("cpu", "bfloat16", float32=300.0, bfloat16=900.0) / rate("cpu", "float32", float32=300.0) == pytest.approx(1.55, abs=0.01)


def test_endlessly_fast_products_make_it_little_more_than_twice_as_fast() -> None:
    assert rate("cpu", "bfloat16", float32=1.0, bfloat16=1e9) / rate("cpu", "float32", float32=1.0) == pytest.approx(4.5 / 2.1)


def test_a_gpu_reaches_its_share() -> None:
    assert rate("cuda", "bfloat16", float32=1.0, bfloat16=400.0) == pytest.approx(100e9)


@pytest.mark.parametrize(("layers", "times"), [(30, 1 / (0.25 * 20 / 30 + 0.75 * 0.8)), (0, 1 / 0.8)])
def test_a_student_of_a_teacher_whose_layers_are_not_stated_is_as_fast_as_its_size_says(layers: int, times: float) -> None:
    shape: Any = SimpleNamespace(learning=SimpleNamespace(layers=20, parameters=80), model=SimpleNamespace(layers=layers, parameters=100))
    assert _speed_up(shape) == pytest.approx(times)
