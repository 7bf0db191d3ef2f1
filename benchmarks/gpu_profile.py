"""Where the time of a training step goes: kernels by what they do, and the lines at which the processor waits for the GPU.

    watch = Watch(before=12, steps=4)
    trainer.add_callback(watch); trainer.train()        # at least 12 + 1 + 2 x 4 steps
    watch.kernels.milliseconds, watch.kernels.idle(), watch.kernels.kinds(), watch.kernels.largest(12), watch.waits()
    Kernels.of(step, 5)         # of anything else, five times

On a CPU the operations are counted in place of kernels, and nobody waits: that shows that the script works.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timed_parts import DEVICE, Table, wait
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


class Kernels:
    """What a profiler has seen in so many `steps`, which took `milliseconds` each."""

    def __init__(self, profiler: Any, steps: int, milliseconds: float) -> None:
        self.profiler, self.steps, self.milliseconds = profiler, steps, milliseconds

    @classmethod
    def of(cls, work: Callable[[], Any], steps: int) -> Kernels:
        """Of repeated work, after two times that load kernels."""
        for _ in range(2):
            work()
        wait()
        with profiler_here() as profiler:
            began = time.perf_counter()
            for _ in range(steps):
                work()
            wait()
            took = time.perf_counter() - began
        return cls(profiler, steps, took / steps * 1e3)

    def _all(self) -> list[tuple[str, float, int]]:
        """Name, milliseconds and times of each kernel in a step."""
        found = []
        for event in self.profiler.key_averages():
            took = event.self_device_time_total if DEVICE == "cuda" else event.self_cpu_time_total
            if _is_kernel(event) and took:
                found.append((event.key, took / self.steps / 1e3, round(event.count / self.steps)))
        return sorted(found, key=lambda each: -each[1])

    def kinds(self) -> dict[str, tuple[float, int]]:
        """Milliseconds and number of the kernels of each kind in a step, the longest first."""
        sums: dict[str, tuple[float, int]] = {}
        for name, took, times in self._all():
            before = sums.get(kind_of(name), (0.0, 0))
            sums[kind_of(name)] = (before[0] + took, before[1] + times)
        return dict(sorted(sums.items(), key=lambda each: -each[1][0]))

    def largest(self, number: int) -> list[tuple[str, float, int]]:
        return self._all()[:number]

    def idle(self) -> float:
        """Milliseconds of a step in which no kernel runs: the GPU waits for the processor."""
        times = [event.time_range for event in self.profiler.events() if _is_kernel(event)]
        busy, until = 0.0, -math.inf
        for start, end in sorted((each.start, each.end) for each in times):  # which overlap where there are several streams
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        return max(0.0, self.milliseconds - busy / self.steps / 1e3)

    def tell(self, bench: Table, what: str) -> None:
        """Lines of a table: all of it, by kind, and the longest kernels, with their shares of the step."""

        def line(section: str, name: str, took: float, times: int, **more: Any) -> None:
            bench.tell(section, f"{what}: {name}", ms=round(took, 2), share=f"{took / self.milliseconds:.0%}", times=times, **more)

        kinds, idle = self.kinds(), self.idle()
        busy, kernels = (sum(numbers) for numbers in zip(*kinds.values(), strict=True))
        line("step", "all kernels", busy, kernels, of_a_step_of=round(self.milliseconds, 1))
        bench.tell("step", f"{what}: no kernel runs", ms=round(idle, 2), share=f"{idle / self.milliseconds:.0%}")
        for name, (took, times) in kinds.items():
            line("step", name, took, times)
        for name, took, times in self.largest(8):
            line("kernel", name[:60], took, times)


def profiler_here() -> Any:
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])])


def _is_kernel(event: Any) -> bool:
    """On a GPU; on a CPU an operation."""
    name = getattr(event, "key", None) or event.name
    return (event.device_type.name == "CUDA") == (DEVICE == "cuda") and not name.startswith(("ProfilerStep", "Optimizer."))


class Watch(TrainerCallback):
    """Leaves out `before` steps and one more, profiles as many as `steps`, and in as many after them looks for what waits."""

    def __init__(self, before: int, steps: int) -> None:
        self.begin, self.steps = before + 1, steps
        self.profiler = profiler_here()
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

    @property
    def kernels(self) -> Kernels:
        first, last = self.marks
        return Kernels(self.profiler, self.steps, (last - first) / self.steps * 1e3)

    def waits(self) -> dict[str, float]:
        """How often in a step the processor waits for the GPU, by file and line."""
        lines = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in self.warned if "synchroniz" in str(each.message))
        return {line: times / self.steps for line, times in lines.most_common()}


def _tell_of_waits(mode: str) -> None:
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode(mode)
