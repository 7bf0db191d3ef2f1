"""What the wizard knows about where it runs; found out in the background while the person reads the first question.

look = in_background(RuntimeOptions)     # returns at once
look().glance.gpu                        # waits if it must: milliseconds, or two seconds for a Hub that does not answer
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.hardware.machine import Glance
    from finetune.runtime import RuntimeOptions


@dataclass(frozen=True)
class HostInfo:
    glance: Glance
    hub: bool
    runtime: RuntimeOptions


def look_around(runtime: RuntimeOptions | None = None) -> HostInfo:
    """Machine and Hub, now."""
    from finetune.hardware.machine import glance
    from finetune.hub.reachability import hub_reachable
    from finetune.runtime import RuntimeOptions

    return HostInfo(glance(), hub_reachable(), runtime or RuntimeOptions())


class InBackground:
    """`look_around` in a daemon thread; call it for the result."""

    def __init__(self, look: Callable[[], HostInfo] = look_around) -> None:
        self._look = look
        self._here: HostInfo | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="look-around", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __call__(self) -> HostInfo:
        if not self._thread.ident:
            self._thread.start()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self._here is not None
        return self._here

    def _run(self) -> None:
        try:
            self._here = self._look()
        except BaseException as failure:  # noqa: BLE001  raised again where the answer is wanted
            self._failure = failure
