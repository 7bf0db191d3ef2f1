"""The methods side by side on the starter model: speed and peak memory of LoRA, QLoRA, DoRA, AdaLoRA and full training.

    python benchmarks/methods.py                # synthetic word problems with the lengths of gsm8k
    python benchmarks/methods.py --count 16 --rounds 1 --only LoRA

Every method trains the same rows (batch 4, at most 512 tokens, loss on the answer) in a process of its own, in the dtype that is fastest
on this machine or the one given. Peak memory is that of the process while it trains: libraries, weights, activations and all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import contest

BATCH, LENGTH = 4, 512
CONTENDERS: dict[str, dict[str, Any]] = {
    "LoRA": {"kind": "lora"},
    "QLoRA": {"kind": "qlora"},
    "LoRA with DoRA": {"kind": "lora", "dora": True},
    "AdaLoRA": {"kind": "adalora"},
    "Full": {"kind": "full"},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=Path, help="a .jsonl file with question and answer")
    arguments.add_argument("--count", type=int, default=24, help="rows per round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    arguments.add_argument("--only", help="methods whose name contains this")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        print(contest.MARK + json.dumps(work(given.worker, contest.rows(given.rows, given.count), given.dtype)))
        return
    names = [name for name in CONTENDERS if not given.only or given.only in name]
    contest.table(contest.interleave(__file__, names, given.rounds, sys.argv[1:]), reference="LoRA")


def work(name: str, rows: list[dict[str, str]], dtype: str) -> dict[str, Any]:
    """One method, one round, in this process."""
    from finetune import registry
    from finetune.events import Recorder
    from finetune.hardware.machine import inspect
    from finetune.methods.base import MethodContext
    from finetune.models.load import load_model, load_tokenizer
    from finetune.models.location import locate
    from finetune.recipe import STARTER, Recipe
    from finetune.runtime import RuntimeOptions
    from finetune.training.loop import train
    from finetune.training.step_count import steps_of

    runtime = RuntimeOptions(dtype=dtype)
    machine = inspect(runtime)
    recipe = Recipe.from_layers({"method": CONTENDERS[name], "training": {"batch_size": BATCH, "epochs": 1}})
    method: Any = registry.load("methods", recipe.method.kind)  # type: ignore[attr-defined]
    located = locate(STARTER, runtime, Recorder(), load_in=method.load_in(recipe.method))
    tokenizer = load_tokenizer(located)
    dataset = contest.tokenised(rows, tokenizer, LENGTH)
    steps = steps_of(recipe.training, len(dataset))
    model = method.attach(load_model(located, machine, load_in=method.load_in(recipe.method)), recipe.method, MethodContext(steps))
    options = {"callbacks": method.callbacks(model, recipe.method), "penalty": method.penalty(model, recipe.method)}
    with tempfile.TemporaryDirectory() as folder, contest.Watch() as watch:
        train(model, tokenizer, dataset, recipe, machine, Recorder(), folder=Path(folder), **options)
    return {"tokens": sum(dataset["length"]), "seconds": watch.seconds, "peak_bytes": watch.peak_bytes, "dtype": machine.dtype}


if __name__ == "__main__":
    main()
