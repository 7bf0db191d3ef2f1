"""How near the plan comes: memory and time of real runs on the starter model, by arithmetic, as measured first, and as they were.

    python benchmarks/plan.py                   # all configurations, about 25 minutes on two cores
    python benchmarks/plan.py --only QLoRA      # those whose name contains this

Each configuration runs in the order plan, plan --measure, run, in a cache of its own (models aside), so that nothing is known from an
earlier one. Memory is the highest resident size of the process that ran, time the whole run from the command to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import contest
import psutil

PROGRAM = Path(__file__).parents[1] / "finetune_cli.py"
DOCS = {"source": "builtin:python-docs", "samples": 240}
MADE = {"approach": "distillation", "model": {"from_teacher": {"layers": 20}}}
SHORT = {"training": {"epochs": 1}, "benchmark": {"rows": 8, "max_new_tokens": 48}}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "LoRA, word problems": {},
    "LoRA, docs, batch 8": {"dataset": DOCS, "training": {"batch_size": 8}},
    "LoRA, 256 tokens, batch 2 x 4": {"dataset": {"max_length": 256}, "training": {"batch_size": 2, "gradient_accumulation": 4}},
    "LoRA, activation checkpointing": {"training": {"activation_checkpointing": True}},
    "LoRA with DoRA": {"method": {"kind": "lora", "dora": True}},
    "QLoRA": {"method": {"kind": "qlora"}},
    "AdaLoRA": {"method": {"kind": "adalora"}},
    "Full": {"method": {"kind": "full"}},
    "Distillation, gradient cache": {**MADE, "distillation": {"cache": "gradient"}},
    "Distillation, hidden cache": {**MADE, "distillation": {"cache": "hidden"}},
    "Distillation, no cache": {**MADE, "distillation": {"cache": "none"}},
    "Distillation, docs, batch 8": {**MADE, "dataset": DOCS, "training": {"batch_size": 8}},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", help="configurations whose name contains this")
    arguments.add_argument("--rows", type=Path, help="a .jsonl file with question and answer")
    arguments.add_argument("--count", type=int, default=64, help="word problems of a run")
    given = arguments.parse_args()
    print(f"{'':32} {'memory in GiB':^32} {'seconds':^32}")
    print(f"{'':32} {'plan':>8}{'measured':>10}{'run':>7}{'off':>7} {'plan':>8}{'measured':>10}{'run':>7}{'off':>7}")
    for name, changes in CONFIGURATIONS.items():
        if not given.only or given.only in name:
            print(f"{name:32}{line(changes, contest.rows(given.rows, given.count))}", flush=True)


def line(changes: dict[str, Any], rows: list[dict[str, str]]) -> str:
    """One configuration, planned twice and run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cache = contest.fresh_cache(place, "models", "machine.json")
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        from finetune.recipe import STARTER, Recipe

        teacher = {"teacher": STARTER} if changes.get("approach") == "distillation" else {"model": STARTER}
        start = {"dataset": {"source": str(place / "rows.jsonl")}, "output_dir": str(place / "model")}
        Recipe.from_layers(teacher, SHORT, start, changes).save(place / "recipe.yaml")
        by_arithmetic, measured = (_planned(place, cache, *extra) for extra in ((), ("--measure",)))
        seconds, memory = _run(place, cache)
    text = ""
    for key, unit, real in (("memory_total", 2**30, memory), ("seconds", 1, seconds)):
        plan, better = by_arithmetic[key] / unit, measured[key] / unit
        digits = 2 if unit > 1 else 0
        text += f" {plan:8.{digits}f}{better:10.{digits}f}{real / unit:7.{digits}f}{better * unit / real - 1:+7.0%}"
    return text


def _planned(place: Path, cache: Path, *extra: str) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), "plan", str(place / "recipe.yaml"), "--json", *extra]
    done = subprocess.run(command, env=os.environ | {"FINETUNE_CLI_CACHE": str(cache)}, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _run(place: Path, cache: Path) -> tuple[float, int]:
    """Seconds and peak bytes of the real thing."""
    command = [sys.executable, str(PROGRAM), "run", str(place / "recipe.yaml"), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | {"FINETUNE_CLI_CACHE": str(cache)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:  # the system's own high-water mark is set back whenever a stage begins
        with suppress(psutil.Error):
            peak = max(peak, watched.memory_info().rss)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    return time.perf_counter() - start, peak


if __name__ == "__main__":
    main()
