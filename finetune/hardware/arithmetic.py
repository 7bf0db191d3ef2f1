"""What the last digits of a result depend on: the processor, the number of threads, and library versions round sums differently.

arithmetic("cpu")       # {"processor": "AMD EPYC 7B13", "threads": 2, "torch": "2.13.0+cpu", "transformers": "5.24.0", ...}
differences({"threads": 1}, {"threads": 2})     # "threads 1, here 2"
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from finetune.hardware.cpu import cpu_name

LIBRARIES = ("torch", "transformers", "peft")


def arithmetic(device: str | torch.device, *, gpu: str | None = None) -> dict[str, Any]:
    """Of this process on a device; precision is not among it. `gpu` is the name of a GPU, where it is known."""
    kind = torch.device(device).type
    processor = (gpu or torch.cuda.get_device_name(device)) if kind == "cuda" else cpu_name()  # mps: a part of the processor
    threads = {"threads": torch.get_num_threads()} if kind == "cpu" else {}
    return {"processor": processor, **threads, **{name: version(name) for name in LIBRARIES}}


def differences(then: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differed, in words; empty if nothing did, or it is not known."""
    pairs = {name: (value, here.get(name)) for name, value in then.items()}
    return "; ".join(f"{name} {before}, here {now or 'none'}" for name, (before, now) in pairs.items() if before != now)
