"""Training beside other programs: alone, beside one that keeps a core busy, beside a second training; and what "measure first" finds then.

    pip install -e .[bench]
    python benchmarks/busy.py --rounds 3

Each training is that of finetuning.py ("this project") in a process of its own; of two at once, the slower one counts while both run.
Printed: real tokens a second, and the share of the speed alone in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import contest

ALONE, BUSY, TWO = "alone", "one core busy", "two trainings at once"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=32, help="rows of each training")
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    rates: dict[str, list[float]] = {ALONE: [], BUSY: [], TWO: []}
    for number in range(given.rounds):
        rates[ALONE] += trainings(1, given.count)
        with busy_core():
            rates[BUSY] += trainings(1, given.count)
        rates[TWO].append(min(trainings(2, given.count)))
        print(f"round {number + 1}: " + ", ".join(f"{name} {found[-1]:.0f} tokens/s" for name, found in rates.items()), file=sys.stderr)
    for name, found in rates.items():
        share = statistics.median(rate / alone for rate, alone in zip(found, rates[ALONE], strict=True))
        print(f"{name:<24}{statistics.median(found):>8.0f} tokens/s{share:>8.0%}")
    with busy_core():
        print(f"measure first, one core busy: {measured()}")


def trainings(number: int, count: int) -> list[float]:
    """Tokens a second of each of `number` trainings that run at once."""
    script = Path(__file__).with_name("finetuning.py")
    order = [sys.executable, str(script), "--count", str(count), "--worker", "this project"]
    started = [subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(number)]
    rates = []
    for process in started:
        text, _ = process.communicate()
        line = next(line for line in text.splitlines() if line.startswith(contest.MARK))
        result = json.loads(line.removeprefix(contest.MARK))
        rates.append(result["tokens"] / result["seconds"])
    return rates


@contextmanager
def busy_core() -> Iterator[None]:
    """A program that never waits, while this is open."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measured() -> str:
    """What `plan --measure` says of a run on the built-in data."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text("dataset: {samples: 450}\n", encoding="utf-8")
        program = str(Path(__file__).parents[1] / "finetune_cli.py")
        order = [sys.executable, program, "plan", str(recipe), "--measure", "--json", "--output-dir", f"{folder}/model"]
        done = subprocess.run(order, capture_output=True, text=True, check=False)
    return json.dumps(json.loads(done.stdout)["measured"]) if done.returncode == 0 else done.stderr[-500:]


if __name__ == "__main__":
    main()
