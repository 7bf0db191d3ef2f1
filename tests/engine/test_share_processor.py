"""A training gives threads up while other programs work, takes them back, says so once, and leaves them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from finetune.events import Notice, Recorder
from finetune.hardware import threads
from finetune.training import share_processor
from finetune.training.share_processor import ShareProcessor


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(monkeypatch: pytest.MonkeyPatch, busy: list[float]) -> tuple[list[int], list[str]]:
    """The threads after each step while others keep so many cores busy, and what was said."""

    class Others:
        def busy_cores(self, left: list[float] = list(busy)) -> float:  # noqa: B006  a list of its own for each training
            return left.pop(0)

    monkeypatch.setattr(share_processor, "Neighbours", Others)
    monkeypatch.setattr(share_processor, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(threads, "allowed_cores", lambda: [0, 1])
    recorder, step = Recorder(), (Any, Any, Any)
    callback = ShareProcessor(recorder)
    callback.on_train_begin(*step)
    seen = []
    for _ in busy:
        callback.on_step_end(*step)
        seen.append(torch.get_num_threads())
    callback.on_train_end(*step)
    return seen, [event.text for event in recorder.events if isinstance(event, Notice)]


@pytest.mark.usefixtures("two_threads")
def test_a_thread_is_given_up_and_taken_back_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, said = trained(monkeypatch, [0.0, 1.0, 0.3, 0.0, 1.0])
    assert seen == [2, 1, 1, 2, 1]
    assert said == [
        "Other programs keep 1.0 of this machine's cores busy: training goes on with 1 of 2 threads, which is faster until they are done."
    ]
    assert torch.get_num_threads() == 2, "as they were"


@pytest.mark.usefixtures("two_threads")
def test_alone_nothing_changes_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(monkeypatch, [0.0, 0.2]) == ([2, 2], [])
