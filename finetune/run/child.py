"""The inside of a child process of ours: one order as JSON on stdin, answers as JSON on stdout, a line each.

answer(lambda order, say: say(ready=True))

`finetune.system.children.python_child` starts such a process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from finetune.errors import FinetuneError

Say = Callable[..., None]


def answer(work: Callable[[dict[str, Any], Say], None]) -> None:
    """Do the work that the first line of stdin orders; `say` answers with facts, and an error that people can read is a `problem`."""
    order = json.loads(sys.stdin.readline())
    if threads := order.get("threads"):  # as many as its parent has: with others it computes other digits, and at another speed
        import torch

        torch.set_num_threads(threads)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # library output must not mix with the JSON answers

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        work(order, say)
    except FinetuneError as error:
        say(problem=error.message)
