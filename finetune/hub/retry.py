"""Requests worth retrying: a busy Hub, a server that is restarting, a lost connection.

with_retries(lambda: api.create_commit(...), reporter)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from finetune.events import Notice, Reporter
from finetune.hub.failures import cause_of, status_of
from finetune.hub.reachability import endpoint_host

WAITS = (1.0, 4.0, 15.0)  # seconds before each new try
LONGEST_WAIT = 120.0  # a server that asks for a longer pause is not retried: the upload ends, and can be finished later
TRANSIENT = {408, 429, 500, 502, 503, 504}

Answer = TypeVar("Answer")


def with_retries(ask: Callable[[], Answer], reporter: Reporter | None = None) -> Answer:
    """What `ask` returns; retried after a pause, which is reported, while its error is likely to be temporary."""
    from huggingface_hub import errors

    for wait in WAITS:
        try:
            return ask()
        except (errors.HTTPError, OSError, RuntimeError) as error:
            pause = _pause(error, wait)
            if pause is None:
                raise
            if reporter is not None:
                reporter.report(Notice(f"{endpoint_host()} {_what(error)}; retrying in {pause:.0f} s.", level="warning"))
        time.sleep(pause)
    return ask()


def pause_after(status: int, asked: str, wait: float) -> float | None:
    """Seconds before a new try after this answer, `wait` or what its Retry-After header `asked` for; None if a new try is pointless."""
    if status not in TRANSIENT:
        return None
    pause = max(wait, float(asked)) if asked.isdecimal() else wait
    return pause if pause <= LONGEST_WAIT else None


def _pause(error: BaseException, wait: float) -> float | None:
    """Seconds to wait before a retry, or None if a retry is pointless."""
    from huggingface_hub import errors

    status = status_of(error)
    if status is None:
        return wait if isinstance(cause_of(error), errors.HTTPError | ConnectionError) else None  # the second from the storage client
    return pause_after(status, cause_of(error).response.headers.get("Retry-After", ""), wait)  # type: ignore[attr-defined]


def _what(error: BaseException) -> str:
    status = status_of(error)
    return "closed the connection" if status is None else "limits requests" if status == 429 else f"answered {status}"
