"""A training gives threads up while other programs work, takes them back, counts and says it, and leaves them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from finetune.events import Notice, Recorder
from finetune.hardware import threads
from finetune.training.parallel import share_processor
from finetune.training.parallel.share_processor import ShareProcessor


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(monkeypatch: pytest.MonkeyPatch, busy: list[float]) -> tuple[list[int], list[str], int]:
    """The threads after each step while others keep so many cores busy, what was said, and how many steps had fewer threads."""

    class Others:
        def busy_cores(self, left: list[float] = list(busy)) -> float:  # noqa: B006  a list of its own for each training
            return left.pop(0)

    monkeypatch.setattr(share_processor, "Neighbours", Others)
    monkeypatch.setattr(share_processor, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(threads, "allowed_cores", lambda: [0, 1])
    recorder, step = Recorder(), (Any, Any, Any)
    seen = []
    with ShareProcessor(recorder) as callback:
        callback.on_train_begin(*step)
        for _ in busy:
            callback.on_step_end(*step)
            seen.append(torch.get_num_threads())
    return seen, [event.text for event in recorder.events if isinstance(event, Notice)], callback.steps


@pytest.mark.usefixtures("two_threads")
def test_a_thread_is_given_up_and_taken_back_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, said, fewer = trained(monkeypatch, [0.0, 1.0, 0.3, 0.0, 1.0])
    assert seen == [2, 1, 1, 2, 1]
    assert fewer == 2, "the steps after the second and the third look"
    assert said == [
        "Other programs keep 1.0 of this machine's cores busy: training goes on with 1 of 2 threads, which is faster until they are done. "
        "Scores can then differ a little from those of a quiet run; OMP_NUM_THREADS=2 keeps all threads."
    ]
    assert torch.get_num_threads() == 2, "as they were"


@pytest.mark.usefixtures("two_threads")
def test_alone_nothing_changes_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(monkeypatch, [0.0, 0.2]) == ([2, 2], [], 0)


@pytest.mark.usefixtures("two_threads")
def test_threads_that_were_asked_for_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert trained(monkeypatch, [1.0, 2.0]) == ([2, 2], [], 0)


@pytest.mark.usefixtures("two_threads")
def test_threads_come_back_after_an_error_and_are_counted_on_where_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = ShareProcessor(Recorder())
    callback.looked = float("inf")  # it does not look
    with suppress(ValueError), callback:
        torch.set_num_threads(1)
        callback.on_step_end(Any, Any, Any)
        raise ValueError("diverged")
    assert torch.get_num_threads() == 2
    later = ShareProcessor(Recorder())
    later.load_state_dict(callback.state_dict())
    assert later.steps == 1
