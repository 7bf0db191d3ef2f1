"""A chat template is a program that came with a model: it runs with limits on its time, its memory and its output.

render_chat(tokenizer, [{"role": "user", "content": "Hi"}], add_generation_prompt=True)

Jinja's sandbox keeps a template away from everything else; it does not keep it from running for ever or from filling the memory. What one
step may make is in template_limits.py.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from finetune.errors import ModelError
from finetune.foreign import TEMPLATE_CHARACTERS, TEMPLATE_LENGTH, TEMPLATE_MEMORY, TEMPLATE_SECONDS, reason
from finetune.models.template_limits import TooMuch, at_most, limit_sandbox

LOOKED_EVERY = 0.05  # seconds
IDLE = 100  # looks at nothing, after which the thread that looks ends
HINT = "Repair chat_template in the model's tokenizer files, or use another model."


class TemplateFailure(ModelError):
    """The template refuses these turns, or fails on them; `detail` is why."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"The chat template of {name} fails: {detail}.", hint=HINT)
        self.detail = detail


def render_chat(tokenizer: Any, turns: Sequence[Any], **options: Any) -> str:
    """The turns as text; raises TemplateFailure, or ModelError for a template that does not end or floods the memory."""
    limit_sandbox()
    name = str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
    try:
        if len(str(tokenizer.chat_template)) > TEMPLATE_LENGTH:
            raise TooMuch("is too long")
        with _WATCH.watched(), at_most(TEMPLATE_CHARACTERS + 4 * sum(len(turn["content"]) for turn in turns)):
            text: str = tokenizer.apply_chat_template(turns, tokenize=False, **options)
        return text
    except TooMuch as error:
        slow = f"takes more than {TEMPLATE_SECONDS:g} seconds or too much memory"
        raise ModelError(f"The chat template of {name} {str(error) or slow}.", hint=HINT) from None
    except Exception as error:
        raise TemplateFailure(name, reason(error)) from error


@dataclass
class _Job:
    began: float
    memory: int
    stopped: bool = False


class _Watch:
    """One thread that looks at all others in which a template runs, and raises TooMuch in them.

    A signal would only reach the main thread, and Windows has none.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: dict[int, _Job] = {}
        self.thread: threading.Thread | None = None
        self.process = psutil.Process()

    @contextmanager
    def watched(self) -> Iterator[None]:
        ident, job = threading.get_ident(), _Job(time.monotonic(), self.process.memory_info().rss)
        with self.lock:
            self.jobs[ident] = job
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._look, daemon=True, name="template-watch")
                self.thread.start()
        try:
            yield
        finally:
            with self.lock:
                self.jobs.pop(ident, None)
            if job.stopped:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), None)  # it may be on its way
        if job.stopped:
            raise TooMuch

    def _look(self) -> None:
        idle = 0
        while True:
            time.sleep(LOOKED_EVERY)
            with self.lock:
                idle = 0 if self.jobs else idle + 1
                if idle > IDLE:
                    self.thread = None
                    return
                for ident, job in self.jobs.items():
                    grown = self.process.memory_info().rss - job.memory
                    if not job.stopped and (time.monotonic() - job.began > TEMPLATE_SECONDS or grown > TEMPLATE_MEMORY):
                        job.stopped = True
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TooMuch))


_WATCH = _Watch()
