"""What `finetune-cli doctor` reports about this machine, as rows of (label, value, fine).

    for label, value, fine in doctor_facts(RuntimeOptions()):
        ...

It reports who is signed in to the Hub, if anybody; the token itself is never shown.
"""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finetune import __version__
from finetune.errors import FinetuneError
from finetune.formatting import size
from finetune.hardware.machine import Glance, glance, inspect
from finetune.hub.reachability import endpoint_host, hub_reachable, offline_reason
from finetune.runtime import RuntimeOptions

PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "huggingface_hub", "evaluate", "gguf")
COMFORTABLE_DISK = 3e9
COMFORTABLE_MEMORY = 3e9

MADE_AGAIN = ("models", "teachers", "datasets", "benchmarks")  # folders of the cache; rows that a model wrote, and answers, are not

Fact = tuple[str, str, bool]


def doctor_facts(runtime: RuntimeOptions) -> list[Fact]:
    """Python, packages, hardware, measured speed, Hub and sign-in state; about three seconds, most of them importing torch."""
    seen = glance(runtime.cache_dir)
    return [
        ("python", f"{platform.python_version()} ({sys.executable})", sys.version_info >= (3, 11)),
        ("finetune-cli", __version__, True),
        *(_package(name, needed=True) for name in PACKAGES),
        _package("bitsandbytes", needed=False),
        ("system", f"{platform.system()} {platform.machine()}", True),
        ("processor", f"{seen.cpu}, {seen.cores} cores", True),
        ("memory", f"{size(seen.free_memory_bytes)} free of {size(seen.memory_bytes)}", seen.free_memory_bytes >= COMFORTABLE_MEMORY),
        ("disk", f"{size(seen.free_disk_bytes)} free for {runtime.cache_dir}", seen.free_disk_bytes >= COMFORTABLE_DISK),
        *_cache(runtime.cache_dir),
        *_speed(runtime, seen),
        *_hub(),
    ]


def _cache(folder: Path) -> list[Fact]:
    """The large parts of the cache that can be deleted; nothing if there are none."""
    found = {kind: _bytes_of(folder / kind) for kind in MADE_AGAIN}
    listed = [f"{kind} {size(taken)}" for kind, taken in sorted(found.items(), key=lambda each: -each[1]) if taken]
    if not listed:
        return []
    return [("cache", f"{size(sum(found.values()))}: {', '.join(listed)}; what you delete is made again when it is needed", True)]


def _bytes_of(folder: Path) -> int:
    """Of all files in a folder; what a run renames or removes meanwhile may be missing."""
    taken = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                taken += Path(place, name).lstat().st_size
    return taken


def _package(name: str, *, needed: bool) -> Fact:
    try:
        return name, version(name), True
    except PackageNotFoundError:
        return name, "not installed" if needed else "not installed (only for 8bit, 4bit and qlora)", not needed


def _speed(runtime: RuntimeOptions, seen: Glance) -> list[Fact]:
    try:
        machine = inspect(runtime)
    except (FinetuneError, ImportError) as error:
        return [("device", str(error), False)]
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in machine.gflops.items())
    gpu = f": {machine.gpu}, {size(machine.free_gpu_memory_bytes)} free of {size(machine.gpu_memory_bytes)}" if machine.gpu else ""
    unused = seen.gpu is not None and machine.device == "cpu" and runtime.device == "auto"
    hint = f" ({seen.gpu} is installed, but this build of torch cannot use it)" if unused else ""
    return [
        ("device", f"{machine.device}{gpu}{hint}", not unused),
        ("speed", f"matrix products: {rates} GFLOP/s", True),
        ("dtype", f"{machine.dtype}: {machine.why_dtype}", True),
    ]


def _hub() -> list[Fact]:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    reachable = hub_reachable()
    where = endpoint_host() if reachable else f"{offline_reason()}; the starter model and local files work"
    if get_token() is None:
        return [("hub", where, reachable), ("signed in", "no (needed only for uploads and gated models: hf auth login)", True)]
    if not reachable:
        return [("hub", where, False), ("signed in", "there is a token; its owner is unknown while offline", True)]
    try:
        return [("hub", where, True), ("signed in", str(HfApi().whoami()["name"]), True)]
    except HfHubHTTPError as error:
        return [("hub", where, True), ("signed in", f"the Hub answers {error.response.status_code} to the token: hf auth login", False)]
    except (HTTPError, OSError):
        return [("hub", where, True), ("signed in", "there is a token, but the Hub did not answer", False)]
