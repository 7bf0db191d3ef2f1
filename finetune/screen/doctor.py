"""What a helper would ask first: machine, versions, Hub, sign-in state. Never the token.

report(examine())
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from finetune.runtime import RuntimeOptions
from finetune.screen.words import size

PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "huggingface_hub")


def examine() -> dict[str, Any]:
    """Facts as plain data."""
    from huggingface_hub import get_token

    from finetune.models.machine import glance
    from finetune.models.reach import endpoint, hub_reachable

    here = glance()
    reachable = hub_reachable()
    return {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cpu": here.cpu,
        "cores": here.cores,
        "memory_bytes": here.memory_bytes,
        "free_memory_bytes": here.free_memory_bytes,
        "free_disk_bytes": here.free_disk_bytes,
        "gpu": here.gpu,
        "gpu_memory_bytes": here.gpu_memory_bytes,
        "packages": {name: _version(name) for name in PACKAGES},
        "hub": endpoint(),
        "hub_reachable": reachable,
        "token_present": get_token() is not None,
        "user": _user() if reachable and get_token() else None,
        "cache": str(RuntimeOptions().cache_dir),
    }


def report(found: dict[str, Any]) -> RenderableType:
    """The facts as a short list."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="quiet", no_wrap=True)
    table.add_column(overflow="fold")
    gpu = f"{found['gpu']}, {size(found['gpu_memory_bytes'])}" if found["gpu"] else "none found"
    signed_in = "not signed in (`hf auth login`)"
    if found["token_present"]:
        signed_in = f"signed in as {found['user']}" if found["user"] else "a token is there, not checked"
    for name, fact in (
        ("Python", found["python"]),
        ("System", found["system"]),
        ("Processor", f"{found['cpu']}, {found['cores']} cores"),
        ("Memory", f"{size(found['free_memory_bytes'])} free of {size(found['memory_bytes'])}"),
        ("GPU", gpu),
        ("Disk", f"{size(found['free_disk_bytes'])} free here"),
        *((name, installed or "not installed") for name, installed in found["packages"].items()),
        ("Hub", f"{found['hub']} {'answers' if found['hub_reachable'] else 'does not answer'}"),
        ("Account", signed_in),
        ("Cache", found["cache"]),
    ):
        table.add_row(name, fact)
    return Padding(table, (0, 0, 0, 2))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _user() -> str | None:
    from huggingface_hub import whoami
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(whoami()["name"])
    except (HfHubHTTPError, OSError, KeyError):
        return None
