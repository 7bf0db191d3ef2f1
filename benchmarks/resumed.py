"""Whole runs by the command, and the same runs stopped by Ctrl-C in the middle and resumed: on the GPU, if there is one.

python benchmarks/resumed.py                  # pico models, every method and way to distil; exit code 1 where one fails
python benchmarks/resumed.py lora qlora       # only these
python benchmarks/resumed.py --jobs 4         # four runs at a time
python benchmarks/resumed.py --seconds 120    # what is not done by then is ended, and its line says so

On a CPU both end with the same weights, bit for bit. On a GPU some operations add numbers in any order, so the table also has how far two
runs are apart that nobody stopped. Each line comes as soon as its runs are done; what a command that fails has printed goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from forks import ROOT, paths
from several_processes import Found, compare, events_of, layer_of
from timed_parts import FAILURES
from workshop import Workshop

from finetune.events import read_events

NAMES = ("lora", "qlora", "adalora", "full", "teacher online", "hidden cache", "gradient cache", "few bits")
EPOCHS = 20
STOP_AT = 5  # steps, of 80 or more


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole runs, and the same stopped and resumed.")
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=1200.0, help="for all of them")
    asked = parser.parse_args()
    if unknown := sorted({*asked.names} - {*NAMES}):
        parser.error(f"There is no run called {', '.join(unknown)}.")
    failed = False
    until = time.monotonic() + asked.seconds
    print("| run | stopped after, steps | of a loss | of a weight | of a score | two whole runs: of a weight | seconds of a whole run |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as workers:
        lines = [workers.submit(measured, Path(folder), asked.device, until, name) for name in asked.names]
        for done in as_completed(lines):
            line, good = done.result()
            print(line, flush=True)
            failed |= not good
    return int(failed)


def measured(folder: Path, device: str, until: float, name: str) -> tuple[str, bool]:
    """A line of the table, and whether all runs came to their end."""
    place = folder / name.replace(" ", "-")
    place.mkdir()
    try:
        shop = Workshop(place)
        layers = [layer_of(shop, name) for _ in range(3)]
        for layer in layers:
            layer["training"]["epochs"] = EPOCHS
        began = time.perf_counter()
        commands = Commands(shop, device, until)
        commands.finish(commands.run(layers[0]))
        took = time.perf_counter() - began
        commands.finish(commands.run(layers[1]))
        stopped = commands.stop(commands.run(layers[2]), layers[2])
        commands.finish(commands.begin("resume", layers[2]["output_dir"]))
        again, resumed = compare(layers[0], layers[1]), compare(layers[0], layers[2])
    except FAILURES as error:
        return f"| {name} | failed: {type(error).__name__}: {' '.join(str(error).split())[:300]} | | | | | |", False
    return f"| {name} | {stopped} of {resumed.steps} | {shown(resumed)} | {again.weight:.0e} | {took:.1f} |", True


def shown(found: Found) -> str:
    return f"{found.loss:.0e} | {found.weight:.0e} | {found.score:.0e}"


class Commands:
    """The program, called on recipes of a workshop; none of them goes on after `until`, of the monotonic clock."""

    def __init__(self, shop: Workshop, device: str, until: float) -> None:
        self.shop, self.device, self.until = shop, device, until
        self.log = shop.folder / "log.txt"
        more = {"PYTHONPATH": paths(ROOT), "FINETUNE_CLI_CACHE": str(shop.runtime.cache_dir), "HF_HUB_OFFLINE": "1"}
        self.environment = {**os.environ, **more}

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        if time.monotonic() > self.until:
            raise TimeoutError(f"{words[0]} was not begun in time")
        command = [sys.executable, str(ROOT / "finetune_cli.py"), *words, "--device", self.device]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self.shop.folder, stdout=log, stderr=log)

    def run(self, layer: dict[str, Any]) -> subprocess.Popen[bytes]:
        recipe = self.shop.folder / "recipe.yaml"
        recipe.write_text(self.shop.tuner(layer).recipe.to_yaml())
        return self.begin("run", str(recipe))

    def finish(self, process: subprocess.Popen[bytes], code: int = 0) -> None:
        """Raises RuntimeError for a command that ends with another exit code, TimeoutError for one that is ended because time is over."""
        try:
            ended = process.wait(max(1.0, self.until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise TimeoutError(f"not done in time; its last words: {self._last(1)}") from None
        if ended != code:
            print(f"{self.shop.folder.name}:\n{self._last(40)}", file=sys.stderr, flush=True)
            raise RuntimeError(f"exit code {ended}: {self._last(2)}")

    def _last(self, lines: int) -> str:
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])

    def stop(self, process: subprocess.Popen[bytes], layer: dict[str, Any]) -> int:
        """Press Ctrl-C once some steps are done; returns how many were when it had ended."""
        while steps_of(layer) < STOP_AT and process.poll() is None and time.monotonic() < self.until:
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
