"""What the wizard knows about this machine; looked up in the background while the person reads the first question.

look = Once(look_around)     # wizard/preload.py calls it in a thread
look().glance.gpu            # waits if it must: milliseconds, or two seconds for a Hub that does not answer
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.hardware.machine import Glance
    from finetune.runtime import RuntimeOptions


@dataclass
class HostInfo:
    """`runtime` is what the command asked for, until the person chooses a number of GPUs in the review."""

    glance: Glance
    hub: bool
    runtime: RuntimeOptions


def look_around(runtime: RuntimeOptions | None = None) -> HostInfo:
    """Machine and Hub, now."""
    from finetune.hardware.machine import glance
    from finetune.hub.reachability import hub_reachable
    from finetune.runtime import RuntimeOptions

    return HostInfo(glance(), hub_reachable(), runtime or RuntimeOptions())


class Once:
    """Calls `look` once, in whichever thread asks first; the others wait for the result."""

    def __init__(self, look: Callable[[], HostInfo]) -> None:
        self._look = look
        self._found: HostInfo | None = None
        self._looking = threading.Lock()

    def __call__(self) -> HostInfo:
        with self._looking:
            self._found = self._found or self._look()
            return self._found
