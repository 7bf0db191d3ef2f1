"""Whole runs by the command, and the same runs stopped by Ctrl-C in the middle and resumed: on the GPU, if there is one.

python benchmarks/resumed.py                  # pico models, every method and way to distil; exit code 1 where one fails
python benchmarks/resumed.py lora qlora       # only these
python benchmarks/resumed.py --jobs 4         # four runs at a time

On a CPU both end with the same weights, bit for bit. On a GPU some operations add numbers in any order, so the table also has how far two
runs are apart that nobody stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from several_processes import Found, compare, events_of, layer_of
from workshop import Workshop

from finetune.events import read_events

ROOT = Path(__file__).parents[1]
NAMES = ("lora", "qlora", "adalora", "full", "teacher online", "hidden cache", "gradient cache", "few bits")
EPOCHS = 20
STOP_AT = 5  # steps, of 80 or more


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole runs, and the same stopped and resumed.")
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    if unknown := sorted({*asked.names} - {*NAMES}):
        parser.error(f"There is no run called {', '.join(unknown)}.")
    failed = False
    print("| run | stopped after, steps | of a loss | of a weight | of a score | two whole runs: of a weight | seconds of a whole run |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as workers:
        for line, good in workers.map(partial(measured, Path(folder), asked.device), asked.names):
            print(line, flush=True)
            failed |= not good
    return int(failed)


def measured(folder: Path, device: str, name: str) -> tuple[str, bool]:
    """A line of the table, and whether all runs came to their end."""
    place = folder / name.replace(" ", "-")
    place.mkdir()
    shop = Workshop(place)
    layers = [layer_of(shop, name) for _ in range(3)]
    for layer in layers:
        layer["training"]["epochs"] = EPOCHS
    began = time.perf_counter()
    commands = Commands(shop, device)
    try:
        commands.finish(commands.run(layers[0]))
        took = time.perf_counter() - began
        commands.finish(commands.run(layers[1]))
        stopped = commands.stop(commands.run(layers[2]), layers[2])
        commands.finish(commands.begin("resume", layers[2]["output_dir"]))
    except RuntimeError as error:
        return f"| {name} | failed: {error} | | | | | |", False
    again, resumed = compare(layers[0], layers[1]), compare(layers[0], layers[2])
    return f"| {name} | {stopped} of {resumed.steps} | {shown(resumed)} | {again.weight:.0e} | {took:.1f} |", True


def shown(found: Found) -> str:
    return f"{found.loss:.0e} | {found.weight:.0e} | {found.score:.0e}"


class Commands:
    """The program, called on recipes of a workshop."""

    def __init__(self, shop: Workshop, device: str) -> None:
        self.shop, self.device = shop, device
        self.log = shop.folder / "log.txt"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "FINETUNE_CLI_CACHE": str(shop.runtime.cache_dir), "HF_HUB_OFFLINE": "1"}

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "finetune_cli.py"), *words, "--device", self.device]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self.shop.folder, stdout=log, stderr=log)

    def run(self, layer: dict[str, Any]) -> subprocess.Popen[bytes]:
        recipe = self.shop.folder / "recipe.yaml"
        recipe.write_text(self.shop.tuner(layer).recipe.to_yaml())
        return self.begin("run", str(recipe))

    def finish(self, process: subprocess.Popen[bytes], code: int = 0) -> None:
        """Raises RuntimeError, with the last line it printed, for a command that ends with another exit code."""
        if (ended := process.wait(300)) != code:
            raise RuntimeError(f"exit code {ended}: {self.log.read_text().strip().splitlines()[-1][:200]}")

    def stop(self, process: subprocess.Popen[bytes], layer: dict[str, Any]) -> int:
        """Press Ctrl-C once some steps are done; returns how many were when it had ended."""
        while steps_of(layer) < STOP_AT and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        self.finish(process, 130)
        return steps_of(layer)


def steps_of(layer: dict[str, Any]) -> int:
    events = events_of(layer)
    return sum(record["event"] == "step" for record in read_events(events)) if events.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
