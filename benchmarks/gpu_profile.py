"""Where the time of a training step goes: kernels by what they do, and the lines at which the processor waits for the GPU.

    watch = Watch(before=12, steps=4)
    trainer.add_callback(watch); trainer.train()        # at least 12 + 1 + 2 x 4 steps
    watch.milliseconds(), watch.kinds(), watch.largest(12), watch.waits()

On a CPU the operations are counted in place of kernels, and nobody waits: that shows that the script works.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from timed_parts import DEVICE, wait
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

KINDS = {  # by a word in the name of a kernel, or of an operation on a CPU; the first that fits counts
    "the loss": ("softmax_loss",),
    "attention": ("flash", "fmha", "attention", "attn"),
    "products": ("gemm", "nvjet", "cutlass", "cublas", "addmm", "aten::mm", "aten::bmm", "splitk", "aten::linear", "linear_pointwise"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "copies": ("memcpy", "memset", "copy", "aten::cat", "catarray", "fill"),
    "sums and norms": ("reduce", "norm", "softmax", "aten::sum", "aten::mean"),
    "number by number": ("elementwise", "aten::mul", "aten::add", "aten::silu", "aten::neg", "aten::sub", "aten::div"),
}
OTHER = "other"


def kind_of(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in name.lower() for word in words)), OTHER)


class Watch(TrainerCallback):
    """Leaves out `before` steps and one more, profiles as many as `steps`, and in as many after them looks for what waits."""

    def __init__(self, before: int, steps: int) -> None:
        self.begin, self.steps = before + 1, steps
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
        self.profiler = profile(activities=activities)
        self.caught = warnings.catch_warnings(record=True)
        self.warned: Any = []
        self.marks: list[float] = []
        self.looks_at = ""  # kernels or waits, now

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done = state.global_step - self.begin
        if done == 0:
            self.profiler.start()
            self.looks_at = "kernels"
        if done in (0, self.steps):
            wait()
            self.marks.append(time.perf_counter())
        if done == self.steps:
            self.close()
            self.warned = self.caught.__enter__()
            warnings.simplefilter("always")
            _tell_of_waits("warn")
            self.looks_at = "waits"
        elif done == 2 * self.steps:
            self.close()

    def close(self) -> None:
        """Look no longer; what is measured after a training that ended too early is as if nobody had."""
        looked_at, self.looks_at = self.looks_at, ""
        if looked_at == "kernels":
            self.profiler.stop()
        elif looked_at == "waits":
            _tell_of_waits("default")
            self.caught.__exit__(None, None, None)

    def milliseconds(self) -> float:
        """Of one step, while the profiler looks on."""
        first, last = self.marks
        return (last - first) / self.steps * 1e3

    def _kernels(self) -> list[tuple[str, float, int]]:
        """Name, milliseconds and times of each kernel in a step."""
        found = []
        for event in self.profiler.key_averages():
            on_gpu = event.device_type.name == "CUDA"
            took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if on_gpu == (DEVICE == "cuda") and took and not event.key.startswith(("ProfilerStep", "Optimizer.")):
                found.append((event.key, took / self.steps / 1e3, round(event.count / self.steps)))
        return sorted(found, key=lambda each: -each[1])

    def kinds(self) -> dict[str, tuple[float, int]]:
        """Milliseconds and number of the kernels of each kind in a step, the longest first."""
        sums: dict[str, tuple[float, int]] = {}
        for name, took, times in self._kernels():
            before = sums.get(kind_of(name), (0.0, 0))
            sums[kind_of(name)] = (before[0] + took, before[1] + times)
        return dict(sorted(sums.items(), key=lambda each: -each[1][0]))

    def largest(self, number: int) -> list[tuple[str, float, int]]:
        return self._kernels()[:number]

    def waits(self) -> dict[str, float]:
        """How often in a step the processor waits for the GPU, by file and line."""
        lines = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in self.warned if "synchroniz" in str(each.message))
        return {line: times / self.steps for line, times in lines.most_common()}


def _tell_of_waits(mode: str) -> None:
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode(mode)
