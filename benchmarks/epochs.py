"""How many epochs give a good model, and what do they cost? One run of the wizard's defaults for each dataset and number of epochs.

    python benchmarks/epochs.py                      # everything; on two cores about 40 minutes
    python benchmarks/epochs.py --only "support 200" # rows whose name contains this

The datasets: the built-in one of the default run, and a shop's support.csv (support.py) of 200, 60 and 30 rows. Each run is one of
LLMFineTuner in a process of its own, from an empty folder. Printed: the scores on the held-out rows, and the seconds of the training.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import contest
import support

DATA = {"docstrings 450": 450, "support 200": 200, "support 60": 60, "support 30": 30}
EPOCHS = {"docstrings 450": (1, 2, 3), "support 200": (1, 2, 4, 6), "support 60": (3, 5, 10), "support 30": (5, 10, 20)}
NAMES = [f"{name}, {epochs} epochs" for name in DATA for epochs in EPOCHS[name]]
NAMES += [f"distil docstrings 450, {epochs} epochs" for epochs in (1, 2)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", help="rows whose name contains this")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        print(contest.MARK + json.dumps(work(given.worker)))
        return
    names = [name for name in NAMES if not given.only or given.only in name]
    found = contest.interleave(__file__, names, 1, sys.argv[1:])
    print(f"{'':<36}{'steps':>6}{'seconds':>9}{'ROUGE-L':>9}{'was':>7}{'perplexity':>12}{'retained':>10}")
    for name, (result, *_) in ((name, results) for name, results in found.items() if results):
        kept = f"{result['retention']['value']:.0%}" if result["retention"] else "-"
        rouge = f"{result['after']['rougeL']:>9.3f}{result['before']['rougeL']:>7.3f}"
        print(f"{name:<36}{result['steps']:>6}{result['seconds']:>9.0f}{rouge}{result['after']['perplexity']:>12.2f}{kept:>10}")


def work(name: str) -> dict[str, Any]:
    """One run, in this process."""
    from finetune import LLMFineTuner, Recipe
    from finetune.runtime import RuntimeOptions
    from finetune.wizard.defaults import defaults
    from finetune.wizard.host import look_around

    data, _, epochs = name.removesuffix(" epochs").rpartition(", ")
    distils = data.startswith("distil ")
    runtime = RuntimeOptions()
    layer = defaults(look_around(runtime), "distillation" if distils else "fine-tuning", fresh_folder=False)
    with tempfile.TemporaryDirectory() as folder:
        changes: dict[str, Any] = {"output_dir": f"{folder}/model", "training": {"epochs": float(epochs)}}
        if data.startswith("support"):
            support.write(Path(folder) / "support.csv", DATA[data])
            changes["dataset"] = {"source": f"{folder}/support.csv"}
        result = LLMFineTuner(Recipe.from_layers(layer, changes), runtime=runtime).run()
    scores, training = result.scores, result.training
    return {
        "tokens": training["real_tokens"],
        "seconds": training["train_seconds"],
        "steps": training["steps"],
        "before": scores["before"],
        "after": scores["after"],
        "retention": (scores.get("retention") or {}).get("rougeL"),
    }


if __name__ == "__main__":
    main()
