"""Two processes against one, for every method and every way to learn from a teacher; then two nodes by the command line.

python benchmarks/processes.py               # pico models, two minutes; exit code 1 where losses or weights differ
python benchmarks/processes.py qlora full    # only these
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from forks import ROOT, Forks
from several_processes import CASES, TOLERANCE, compare, layer_of
from workshop import Workshop


def main() -> int:
    failed = 0
    print("| run | steps | largest difference of a loss | of a weight | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, Forks() as forks:
        shop = Workshop(Path(folder))
        for name in sys.argv[1:] or CASES:
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
        layers = [layer_of(shop, "lora"), layer_of(shop, "lora")]
        forks.run({"cache": str(shop.runtime.cache_dir), "log": f"{folder}/log.txt", "layer": layers[0]})
        found = compare(layers[0], two_nodes(shop, layers[1]))
        failed |= max(found.loss, found.weight) > TOLERANCE
        print(f"| two nodes | {found.steps} | {found.loss:.0e} | {found.weight:.0e} | |")
    return failed


def two_nodes(shop: Workshop, layer: dict[str, Any]) -> dict[str, Any]:
    """The run of a layer by two nodes on this machine, with a process on each; the layer."""
    recipe = shop.folder / "recipe.yaml"
    recipe.write_text(shop.tuner(layer).recipe.to_yaml())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FINETUNE_CLI_CACHE": str(shop.runtime.cache_dir), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "finetune_cli.py"), "run", str(recipe), "--device", "cpu", "--dtype", "float32"]
    command += ["--nproc", "1", "--nodes", "2", "--rdzv", "127.0.0.1:29731", "--node-rank"]
    nodes = [subprocess.Popen([*command, rank], env=environment, cwd=shop.folder, stdout=subprocess.DEVNULL) for rank in "01"]
    assert [node.wait(300) for node in nodes] == [0, 0]
    return layer


if __name__ == "__main__":
    sys.exit(main())
