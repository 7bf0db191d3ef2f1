"""One model in a process of its own: answers when it is told to, and says how fast it was and how much memory that took.

python -m finetune.run.answering     reads its order as JSON from the first line of stdin; each line after that is one round

It prints a JSON object for each: {"ready": true}, then {"tokens_per_second": 212.4, "peak_memory_bytes": 310000000} a round. The other
side is finetune/run/costs.py.
"""

from __future__ import annotations

import sys
from typing import Any

import peft  # noqa: F401  here, so that importing it is no part of what an adapter takes
import psutil
import torch

from finetune.benchmark.generation import generation_speed
from finetune.events import Fanout
from finetune.hardware.peak_memory import PeakMemory, release
from finetune.models.kind import auto_class, configuration
from finetune.models.location import LocatedModel
from finetune.recipe import Recipe
from finetune.run.child import Say, answer
from finetune.run.loading import load_base, load_result, load_teacher
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions


def _answer(order: dict[str, Any], say: Say) -> None:
    context = RunContext(Recipe.from_layers(order["recipe"]), RuntimeOptions.from_dict(order["runtime"]), Fanout())
    located = _located(context, order["side"])
    _import_its_code(located)
    device = context.machine.device
    release()
    without = psutil.Process().memory_info().rss if device == "cpu" else 0
    model = _load(context, order["side"])
    rows = [{"prompt_ids": prompt} for prompt in order["prompts"]]
    release()
    say(ready=True)
    with PeakMemory(device) as peak:
        for _ in sys.stdin:
            speed = generation_speed(model, None, rows)
            memory = max(0, peak.highest() - without) if device in ("cpu", "cuda") else None
            say(tokens_per_second=speed, peak_memory_bytes=memory, threads=torch.get_num_threads())


def _located(context: RunContext, side: str) -> LocatedModel:
    return context.teachers_located[context.recipe.main_teacher] if side == "teacher" else context.located


def _load(context: RunContext, side: str) -> Any:
    """The teacher, the model before its training, or the result."""
    if side == "teacher":
        return load_teacher(context, context.recipe.main_teacher)
    return load_base(context) if side == "before" else load_result(context, RunFolder(context.recipe.output_dir))


def _import_its_code(located: LocatedModel) -> None:
    """A model without weights: what its program takes is no part of what the model takes."""
    config = configuration(located)
    kind = auto_class(config, located)
    with torch.device("meta"):
        kind.from_config(config, trust_remote_code=located.home.remote_code)


if __name__ == "__main__":
    answer(_answer)
