"""The machine's devices, memory and measured speed.

    glance()            # no torch, milliseconds: for the wizard and the review
    inspect(runtime)    # torch: the device, and the dtype with the fastest matrix products here

bfloat16 is three times as fast as float32 on some CPUs and eight times slower on others, so it is measured, and the choice remembered.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from finetune.errors import HardwareError, NotHere
from finetune.foreign import reason
from finetune.formatting import enumerated, ratio
from finetune.hardware.cpu import cores, cpu_name
from finetune.hardware.limits import limits
from finetune.runtime import RuntimeOptions
from finetune.system.storage import free_disk, write_whole

if TYPE_CHECKING:
    import torch

# bfloat16 loses precision; it must be this much faster to be chosen.
BFLOAT16_MUST_BE_FASTER = 1.5
# What is measured on which device; a GPU needs larger products to show its speed.
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16"), "mps": ("float32", "float16")}
PRODUCT = {"cpu": 768, "cuda": 4096, "mps": 2048}
USE_CPU = "Stop other programs on it, install a build of torch for it, or use --device cpu."


@dataclass(frozen=True)
class Glance:
    """The machine without torch; sizes in bytes."""

    cpu: str
    cores: int
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    gpu: str | None
    gpu_memory_bytes: int
    free_gpu_memory_bytes: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Machine:
    """The machine as the engine uses it; `gflops` is the measured matrix-product rate of each dtype on `device`.

    `free_gpu_memory_bytes` are those that this process can still use: neither its own tensors nor another process occupies them. Of
    several `gpus`, name and memory are those of the first; `gpus` is 1 where `device` is the CPU, and all of it trains in one process.
    `threads` share a product on a CPU: with another number its sums are rounded otherwise.
    """

    cpu: str
    cores: int
    memory_bytes: int
    free_memory_bytes: int
    device: str
    gpu: str | None
    gpu_memory_bytes: int
    dtype: str
    gflops: dict[str, float]
    why_dtype: str
    free_gpu_memory_bytes: int = 0
    gpus: int = 1
    threads: int = 1


def glance(folder: Path | None = None) -> Glance:
    """Cores, memory, GPU by name, and the free disk under `folder` (the working folder by default)."""
    total, free = _memory()
    return Glance(cpu_name(), cores(), total, free, free_disk(folder or Path.cwd()), *_gpu())


def inspect(runtime: RuntimeOptions) -> Machine:
    """The device and dtype to work with; measured in about 0.2 s, once in a process; the choice is kept in `cache_dir/machine.json`.

    Raises NotHere for a device that is not there or a dtype it cannot use, HardwareError for one that does not compute.
    """
    import torch

    if limits().processors < torch.get_num_threads():
        torch.set_num_threads(limits().processors)  # torch counts the machine's cores; threads beyond a quota only wait
    device = _device(runtime.device)
    total, free = _memory()
    if runtime.dtype not in ("auto", *DTYPES[device]):
        what = f"--dtype {runtime.dtype} cannot be used on the device {device}."
        raise NotHere(what, hint=f"Use --dtype {enumerated(('auto', *DTYPES[device]), 'or')}.")
    gpu, gpu_memory, gpu_free = None, 0, 0
    try:
        if device == "cuda":
            gpu, gpu_memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
            # What torch has reserved and not given to a tensor counts as taken with the driver.
            gpu_free = torch.cuda.mem_get_info(0)[0] + torch.cuda.memory_reserved(0) - torch.cuda.memory_allocated(0)
        elif device == "mps":
            gpu, gpu_memory, gpu_free = "Apple GPU", total, free
        rates, dtype, why = _measured(runtime.cache_dir / "machine.json", device, gpu)
    except RuntimeError as error:  # a GPU for which this torch has no kernels, that others have filled, or that one of them holds alone
        if device == "cpu":
            raise
        raise HardwareError(f"{gpu or 'The GPU'} cannot compute: {reason(error).split('. ')[0]}.", hint=USE_CPU) from error
    if runtime.dtype != "auto":
        dtype, why = runtime.dtype, "asked for"
    elif runtime.began_with and runtime.began_with[:2] == (gpu or cpu_name(), device):
        dtype, why = runtime.began_with[2], "as the run began"
    gpus = torch.cuda.device_count() if device == "cuda" else 1
    return Machine(cpu_name(), cores(), total, free, device, gpu, gpu_memory, dtype, rates, why, gpu_free, gpus, torch.get_num_threads())


def torch_dtype(machine: Machine) -> torch.dtype:
    """The machine's dtype as torch names it."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[machine.dtype]


def _memory() -> tuple[int, int]:
    """Total and available bytes, within the limit of a container where there is one."""
    memory, limit = psutil.virtual_memory(), limits()
    return min(memory.total, limit.memory_bytes), min(memory.available, limit.free_memory_bytes)


@lru_cache(maxsize=1)
def _gpu() -> tuple[str | None, int, int, int]:
    """The first GPU's name, its total and free bytes, and how many there are, of those that CUDA_VISIBLE_DEVICES does not hide."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        memory = psutil.virtual_memory()
        return "Apple GPU", memory.total, memory.available, 1
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return None, 0, 0, 0
    try:
        query = [nvidia_smi, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=3, check=True).stdout
        found = _visible(answer.splitlines())
        name, *numbers = map(str.strip, found[0].rsplit(",", 2))
        if any("N/A" in number for number in numbers):  # it has none of its own: GPU and processor share the machine's
            return name, *_memory(), len(found)
        total, free = map(int, numbers)
        return name, total * 2**20, free * 2**20, len(found)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):  # a driver without a device
        return None, 0, 0, 0


def _visible(gpus: list[str]) -> list[str]:
    """Those of all GPUs that CUDA sees, in its order: up to the first number that is none, such as -1. One named by its id is any."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return gpus
    names = map(str.strip, given.split(","))
    seen = takewhile(lambda each: each.startswith(("GPU-", "MIG-")) or (each.isdigit() and int(each) < len(gpus)), names)
    return [gpus[int(each) if each.isdigit() else 0] for each in seen]


def _device(wanted: str) -> str:
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, available in there.items() if available)
    if wanted not in there:
        raise NotHere(f"There is no device {wanted!r}.", hint="Use auto, cpu, cuda or mps.")
    if not there[wanted]:
        raise NotHere(f"torch {torch.__version__} finds no {wanted} device here.", hint="Use --device auto or --device cpu.")
    return wanted


def _fastest(device: str, rates: dict[str, float]) -> tuple[str, str]:
    """The dtype for a device, and why."""
    if device == "cuda":
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU supports it in hardware"
        return "float16", "the GPU does not support bfloat16 in hardware"
    if device == "mps":
        return "float32", "all operations of training support it on this GPU"
    gain = rates["bfloat16"] / rates["float32"]
    if gain >= BFLOAT16_MUST_BE_FASTER:
        return "bfloat16", f"{ratio(gain, 1)} times as fast as float32 here"
    return "float32", f"bfloat16 would be {ratio(gain, 1)} times as fast; {BFLOAT16_MUST_BE_FASTER} are needed"


def _measured(path: Path, device: str, gpu: str | None) -> tuple[dict[str, float], str, str]:
    """The best rates ever measured here, the dtype that was chosen first, and why.

    The dtype stays, so that runs on one machine can be compared; the rates may still rise, since a busy machine is measured too slow.
    """
    import torch

    key = f"{gpu or cpu_name()} | {cores()} cores | {device} | torch {torch.__version__}"
    known = _remembered(path)
    chosen, before = known.get(key, (None, {}))
    rates = {name: max(rate, before.get(name, 0.0)) for name, rate in _measure(device, torch.get_num_threads()).items()}
    dtype, why = _fastest(device, rates)
    if chosen not in (None, dtype):
        dtype, why = str(chosen), "chosen when this machine was first measured"
    if (dtype, rates) != (chosen, before):
        known[key] = dtype, rates
        with suppress(OSError):  # a read-only cache: measured again next time
            content = {machine: {"dtype": kept, "gflops": best} for machine, (kept, best) in known.items()}
            write_whole(path, json.dumps(content, indent=1), shared=True)
    return rates, dtype, why


def _remembered(path: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """The dtype and the rates of each machine that was measured, by its key; nothing if the file is missing or broken."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {key: (found["dtype"], {name: float(rate) for name, rate in found["gflops"].items()}) for key, found in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remembered_dtype(runtime: RuntimeOptions) -> str | None:
    """The dtype that was chosen for this machine's CPU when it was last measured; None if it never was. No torch."""
    known = _remembered(runtime.cache_dir / "machine.json")
    return next((dtype for key, (dtype, _) in known.items() if key.startswith(f"{cpu_name()} | {cores()} cores | cpu |")), None)


@lru_cache
def _measure(device: str, threads: int) -> dict[str, float]:
    """GFLOP/s of square matrix products per dtype: the best of several rounds, each with every dtype, so that a busy moment affects all.

    Once in a process for each device and number of threads.
    """
    import torch

    from finetune.hardware.matmul import linear  # brings torch

    size, dtypes = PRODUCT[device], DTYPES[device]
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    pairs = {dtype: [torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2)] for dtype in dtypes}
    best = dict.fromkeys(dtypes, 0.0)
    rounds, began = 0, time.perf_counter()
    while rounds < 3 or time.perf_counter() - began < 0.15:
        for dtype, (left, right) in pairs.items():
            wait()
            start = time.perf_counter()
            linear(left, right)
            wait()
            if rounds > 0:  # the first product also pays for threads and kernels
                best[dtype] = max(best[dtype], round(2 * size**3 / (time.perf_counter() - start) / 1e9, 1))
        rounds += 1
    return best
