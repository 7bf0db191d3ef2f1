"""What `benchmarks/gpu.py` says of a step: its kernels by kind, and what waits for the GPU; and of chunks of the loss."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pico import arguments, pico, pico_rows
from transformers import TrainerCallback

from finetune.training.trainer import SupervisedTrainer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_loss import _smallest
from gpu_profile import Kernels, Watch, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "number by number"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<...>>>", "sums and norms"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<...>>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("softmax_loss", "the loss"),
        ("void at::native::index_elementwise_kernel<...>", "number by number"),
        ("triton_of_somebody", "other"),
    ],
)
def test_kernels_are_known_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_watch_counts_the_kernels_and_the_waits_of_a_step(tmp_path: Path) -> None:
    class Waits(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            for message in ("called a synchronizing CUDA operation", "something else"):
                warnings.warn(message, stacklevel=1)

    watch = Watch(before=1, steps=2)
    settings = arguments(tmp_path, per_device_train_batch_size=2, num_train_epochs=1, logging_strategy="no")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those before and after are nobody's
        SupervisedTrainer(model=pico("llama"), args=settings, train_dataset=pico_rows(12), callbacks=[watch, Waits()]).train()
    kernels = watch.kernels
    kinds = kernels.kinds()
    assert kinds["products"][1] > 10
    assert 0 < sum(took for took, _ in kinds.values()) < kernels.milliseconds * 1.2
    assert 0 <= kernels.idle() < kernels.milliseconds
    assert [took for _, took, _ in kernels.largest(5)] == sorted((took for _, took, _ in kernels.largest(5)), reverse=True)
    assert list(watch.waits().values()) == [1.0]


def test_time_without_a_kernel_is_counted_once_where_kernels_overlap() -> None:
    def event(start: float, end: float, name: str = "gemm", device: str = "CPU") -> Any:
        found = Mock(spec=["name", "device_type", "time_range"], time_range=Mock(start=start * 1e3, end=end * 1e3))
        found.name, found.device_type.name = name, device
        return found

    events = [event(0, 3), event(2, 4), event(2.5, 3.5), event(6, 8), event(0, 20, "ProfilerStep#1"), event(0, 20, device="CUDA")]
    assert Kernels(Mock(events=lambda: events), 2, 5.0).idle() == pytest.approx(5.0 - 3.0)


@pytest.mark.parametrize(("after", "looks_at"), [(2, "kernels"), (4, "waits")])
def test_a_watch_that_ends_too_early_leaves_nothing_on(after: int, looks_at: str, tmp_path: Path) -> None:
    filters = warnings.filters
    watch = Watch(before=1, steps=2)
    for step in range(1, after + 1):
        watch.on_step_end(None, Mock(global_step=step), None)
    assert watch.looks_at == looks_at
    watch.close()
    assert (watch.looks_at, warnings.filters) == ("", filters)
    other = Watch(before=0, steps=1)
    for step in range(4):
        other.on_step_end(None, Mock(global_step=step), None)
    assert other.looks_at == ""


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"Liger": 15.0}, ("4 tokens, head frozen: smallest within 18.0 ms, by Liger", 128)),
        ({}, ("4 tokens, head frozen: smallest within 15.8 ms, by the quickest", 256)),
        ({"Liger": 5.0}, ("4 tokens, head frozen: smallest within 6.0 ms, by Liger", "none")),
    ],
)
def test_the_smallest_chunk_that_is_quick_enough_is_one_line(others: dict[str, float], said: tuple[str, int | str]) -> None:
    times = {"64 MiB": 19.0, "128 MiB": 16.0, "256 MiB": 15.5, "512 MiB": 15.0, **others}
    bench = Mock(told=[{"what": f"4 tokens, head frozen: {way}", "ms": took} for way, took in times.items()])
    bench.told.append({"what": "4 tokens, head frozen: 1024 MiB", "failed": "no room"})
    _smallest(bench, "4 tokens, head frozen")
    bench.tell.assert_called_once_with("chunks", said[0], MiB_of_a_chunk=said[1])
