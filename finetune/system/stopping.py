"""The signals that ask a program to end, and what to do instead of dying.

    with on_signals(stop_after_this_step):      # Ctrl-C, SIGTERM, a lost terminal or connection (SIGHUP), Ctrl-Break
        train()

Windows has no SIGHUP, other systems no SIGBREAK.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

from finetune.errors import Interrupted

Handler = Callable[[int, FrameType | None], None]

CTRL_C: tuple[int, ...] = (signal.SIGINT,)
ENDED: tuple[int, ...] = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))
LOST: tuple[int, ...] = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """The program is to end, and not only what it does just now."""


@contextmanager
def on_signals(handler: Handler, numbers: tuple[int, ...] = (*CTRL_C, *ENDED, *LOST)) -> Iterator[None]:
    """Call `handler` for these signals; a SIGHUP that is ignored, as under nohup, stays ignored. Only the main thread can do this."""
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if number not in LOST or signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, earlier)


def like_ctrl_c(number: int, frame: FrameType | None) -> NoReturn:
    """A handler: what Ctrl-C does. A lost connection says so twice, the shell and the system; the second must not disturb the end."""
    if number in LOST:
        signal.signal(number, signal.SIG_IGN)
    raise Ended


def ended_like_ctrl_c() -> AbstractContextManager[None]:
    """A block in which SIGTERM and SIGHUP interrupt like Ctrl-C, with the same message and exit code."""
    return on_signals(like_ctrl_c, (*ENDED, *LOST))


@contextmanager
def no_interrupt_lost() -> Iterator[Callable[[], None]]:
    """A block that Ctrl-C ends although a library swallows it, or makes an error of its own of it, as transformers does while it imports.

    What is yielded raises the interrupt again if there was one.
    """
    came: list[int] = []

    def noted(number: int, frame: FrameType | None) -> NoReturn:
        came.append(number)
        if number in CTRL_C:
            raise KeyboardInterrupt
        like_ctrl_c(number, frame)

    def check() -> None:
        if came:
            raise KeyboardInterrupt if came[-1] in CTRL_C else Ended

    with on_signals(noted):
        try:
            yield check
        except Interrupted:  # somebody has said already what was stopped, and how it goes on
            raise
        except Exception:  # of any kind: what a library made of the interrupt; without one it goes on as it came
            check()
            raise
        check()


@contextmanager
def until_ctrl_c() -> Iterator[None]:
    """A block that Ctrl-C ends, after which the program goes on; what ends the program passes."""
    try:
        yield
    except Ended:
        raise
    except KeyboardInterrupt:
        pass
