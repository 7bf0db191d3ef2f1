"""Two processes against one, for every method and every way to learn from a teacher: losses, weights and rows of each step.

python benchmarks/processes.py            # pico models, a few minutes; exit code 1 where they differ
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from forks import Forks
from several_processes import CASES, TOLERANCE, compare, layer_of
from workshop import Workshop


def main() -> int:
    failed = 0
    print("| run | steps | largest difference of a loss | of a weight | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, Forks() as forks:
        shop = Workshop(Path(folder))
        for name in CASES:
            began = time.perf_counter()
            layers = [layer_of(shop, name), layer_of(shop, name)]
            job = {"cache": str(shop.runtime.cache_dir), "log": f"{folder}/log.txt"}
            codes = [forks.run({**job, "layer": layer, "processes": number}) for number, layer in enumerate(layers, 1)]
            if any(codes):
                failed = 1
                print(f"| {name} | failed: {Path(folder, 'log.txt').read_text()[-500:]}")
                continue
            found = compare(*layers)
            failed |= max(found.loss, found.weight) > TOLERANCE
            print(f"| {name} | {found.steps} | {found.loss:.0e} | {found.weight:.0e} | {time.perf_counter() - began:.1f} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
